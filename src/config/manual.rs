//! The environments that the configuration names, in the same form as those of autoconfig.

use std::sync::Arc;

use crate::model::{
    AcceptedKey, CredentialSet, EnvironmentRef, EnvironmentSpec, FilterKey, MobileKey,
};

use super::{Config, EnvironmentConfig};

impl Config {
    /// All environments of `[Environment]` sections and `LD_ENV_` variables in the order of their
    /// names, each followed by one for each filter of its project.
    ///
    /// ld-relay v8: a filtered environment is named `ENVIRONMENT/FILTER`; the filter is added to
    /// its prefix if it has one.
    pub fn manual_environments(&self) -> Vec<EnvironmentSpec> {
        let mut specs = Vec::new();
        for (name, environment) in &self.environments {
            specs.push(spec(name, environment, FilterKey::default()));
            let filters = self.filters.get(&environment.project_key).into_iter().flatten();
            specs.extend(filters.map(|filter| spec(name, environment, filter.clone())));
        }
        specs
    }
}

fn spec(name: &str, environment: &EnvironmentConfig, filter: FilterKey) -> EnvironmentSpec {
    let prefix = &environment.store_prefix;
    let store_prefix = if filter.is_unfiltered() || prefix.is_empty() {
        prefix.clone()
    } else {
        format!("{prefix}/{}", filter.as_str())
    };
    EnvironmentSpec {
        reference: EnvironmentRef { environment: name.into(), filter },
        environment_key: String::new(),
        environment_name: name.to_owned(),
        project_key: environment.project_key.clone(),
        project_name: String::new(),
        credentials: credentials(environment),
        ttl: environment.ttl,
        secure_mode: environment.secure_mode,
        allowed_origins: Arc::from(environment.allowed_origins.as_slice()),
        allowed_headers: Arc::from(environment.allowed_headers.as_slice()),
        store_prefix,
        store_table: environment.store_table.clone(),
    }
}

fn credentials(environment: &EnvironmentConfig) -> CredentialSet {
    let anchor = environment.sdk_key.value.clone();
    let mobile: Option<MobileKey> = environment.mobile_key.as_ref().map(|key| key.value.clone());
    CredentialSet {
        sdk_keys: vec![AcceptedKey { value: anchor.clone(), name: None, expiry: None }],
        anchor,
        mobile_keys: mobile
            .iter()
            .map(|key| AcceptedKey { value: key.clone(), name: None, expiry: None })
            .collect(),
        primary_mobile: mobile,
        environment_id: environment.environment_id.clone(),
    }
}
