//! Amazon DynamoDB behind deadlines and a breaker.
//!
//! The client is made at the first call, not at the start: a missing region or unreadable AWS files
//! are not fatal, and are checked again at each dial. Region and credentials
//! come from AWS's default chain. The SDK's own retries are off; [`patiently`] retries throttled
//! requests, callers retry everything else.

mod bulk;
mod table;

use std::fmt;
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::imds::region::ImdsRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::config::{
    Credentials, IdentityCache, Region, SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::types::AttributeValue;
use aws_smithy_http_client::Builder as HttpClientBuilder;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use tokio::time::{Instant, sleep, timeout};

use self::bulk::as_part_of_bulk;
pub use self::table::{DynamoDbTable, Form};
use super::fail_fast::{Dialer, FailFast, LATE_LIMIT};
use super::{Meter, StoreError};
use crate::backoff::Backoff;
use crate::model::Password;

/// Time for one request and its answer. The budget of its call ends it sooner, unless bulk calls
/// receive bytes meanwhile.
const REQUEST_TIMEOUT: Duration = LATE_LIMIT;

/// Time for TCP and TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Time to find the region: outside of AWS the last source of the chain never answers.
const REGION_TIMEOUT: Duration = Duration::from_millis(1_500);

/// Delays between attempts of a throttled request.
const THROTTLED: Backoff = Backoff { base: Duration::from_millis(50), cap: Duration::from_secs(1) };

/// Time before the end of the call's budget at which throttled requests are not repeated any more,
/// so that their error is reported and not a time-out, which would cost the connection.
const DEADLINE_MARGIN: Duration = Duration::from_millis(500);

/// Largest length of an error's text.
const ERROR_CHARACTERS_MAX: usize = 300;

/// Key of the item that a probe reads. It need not exist.
const PROBE_KEY: &str = "$pilotlight-probe";

/// DynamoDB in one region behind deadlines and a breaker.
pub type DynamoDbStore = FailFast<DynamoDbDialer>;

/// Settings of DynamoDB.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DynamoDbSettings {
    /// The endpoint, if it is not the region's (ld-relay v8: `[DynamoDB] url`).
    pub endpoint: Option<String>,
    /// The region; `None` means AWS's default chain.
    pub region: Option<String>,
    /// Credentials; `None` means AWS's default chain. Intended for endpoints that are not AWS.
    pub credentials: Option<StaticCredentials>,
    /// The table that a probe reads; `None` means that it lists the tables.
    pub probe_table: Option<String>,
}

/// An access key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticCredentials {
    /// Its ID.
    pub access_key_id: String,
    /// Its secret.
    pub secret_access_key: Password,
}

/// An error of DynamoDB or of the connection to it.
pub struct DynamoDbFailure {
    code: Option<String>,
    text: String,
    may_be_repeated: bool,
}

impl fmt::Display for DynamoDbFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for DynamoDbFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DynamoDbFailure({:?})", self.text)
    }
}

impl std::error::Error for DynamoDbFailure {}

impl DynamoDbFailure {
    /// The error code of the service, such as `ResourceNotFoundException`.
    pub fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }
}

/// No region in the settings nor in AWS's default chain.
#[derive(Debug, thiserror::Error)]
#[error("no AWS region is configured (AWS_REGION or a profile)")]
struct NoRegion;

/// The endpoint of the settings cannot be used. Its text is not shown: it may hold a password.
#[derive(Debug, thiserror::Error)]
#[error("the endpoint is not an http or https URL")]
struct BadEndpoint;

/// Makes clients. All clients share the credentials once obtained, but not connections.
pub struct DynamoDbDialer {
    settings: DynamoDbSettings,
    loaded: Mutex<Option<SdkConfig>>,
}

impl fmt::Debug for DynamoDbDialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DynamoDbDialer").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl DynamoDbDialer {
    /// A dialer; nothing is loaded before the first dial.
    pub fn new(settings: DynamoDbSettings) -> Self {
        Self { settings, loaded: Mutex::new(None) }
    }

    async fn load(&self) -> Result<SdkConfig, StoreError> {
        let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(loaded) = loaded {
            return Ok(loaded);
        }
        let region = match &self.settings.region {
            Some(name) => Some(Region::new(name.clone())),
            None => timeout(REGION_TIMEOUT, region_chain().region()).await.unwrap_or_default(),
        };
        let region = region.ok_or_else(|| StoreError::Refused(Box::new(NoRegion)))?;
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .operation_attempt_timeout(REQUEST_TIMEOUT)
            .operation_timeout(REQUEST_TIMEOUT)
            .build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .region(region)
            .http_client(http_client())
            .identity_cache(IdentityCache::lazy().build())
            .retry_config(RetryConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .timeout_config(timeouts);
        if let Some(StaticCredentials { access_key_id, secret_access_key }) =
            &self.settings.credentials
        {
            let secret = secret_access_key.expose();
            loader = loader.credentials_provider(Credentials::new(
                access_key_id,
                secret,
                None,
                None,
                "settings",
            ));
        }
        let loaded = loader.load().await;
        *self.loaded.lock().unwrap_or_else(PoisonError::into_inner) = Some(loaded.clone());
        Ok(loaded)
    }
}

fn is_web_url(text: &str) -> bool {
    text.parse::<http::Uri>().is_ok_and(|uri| {
        uri.authority().is_some() && matches!(uri.scheme_str(), Some("http" | "https"))
    })
}

/// AWS's default chain, with this HTTP client for its last link: the SDK is built without its own,
/// and panics where it needs one.
fn region_chain() -> RegionProviderChain {
    let config = ProviderConfig::without_region().with_http_client(http_client());
    RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
        .or_else(ProfileFileRegionProvider::new())
        .or_else(ImdsRegionProvider::builder().configure(&config).build())
}

fn http_client() -> SharedHttpClient {
    HttpClientBuilder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https()
}

impl Dialer for DynamoDbDialer {
    type Conn = Client;

    /// Pages of many tables and environments; none is longer than 1 MB.
    const BULK_CALLS: usize = 8;
    const BULK_ON_OWN_CONNECTIONS: bool = false;

    async fn dial(&self, _meter: &Meter) -> Result<Client, StoreError> {
        if self.settings.endpoint.as_ref().is_some_and(|endpoint| !is_web_url(endpoint)) {
            return Err(StoreError::Refused(Box::new(BadEndpoint)));
        }
        let loaded = self.load().await?;
        // A new client opens new connections: the old ones may be dead.
        let mut config =
            aws_sdk_dynamodb::config::Builder::from(&loaded).http_client(http_client());
        if let Some(endpoint) = &self.settings.endpoint {
            config = config.endpoint_url(endpoint);
        }
        Ok(Client::from_conf(config.build()))
    }

    /// Succeeds on any answer, also a refusal or throttling: calls then report their own errors.
    async fn check(&self, client: Client) -> Result<(), StoreError> {
        let outcome = match &self.settings.probe_table {
            Some(table) => client
                .get_item()
                .table_name(table)
                .key("namespace", AttributeValue::S(PROBE_KEY.to_owned()))
                .key("key", AttributeValue::S(PROBE_KEY.to_owned()))
                .send()
                .await
                .map(drop)
                .map_err(classify),
            None => client.list_tables().limit(1).send().await.map(drop).map_err(classify),
        };
        match outcome {
            Err(error) if error.is_transient() && !is_throttled(&error) => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// Classifies an error by what a caller can do about it.
#[expect(clippy::needless_pass_by_value, reason = "used as the argument of map_err")]
pub fn classify<E>(error: SdkError<E>) -> StoreError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let failure = |code: Option<String>, may_be_repeated| {
        Box::new(DynamoDbFailure { code, text: stage_and_root(&error), may_be_repeated })
    };
    match &error {
        SdkError::TimeoutError(_) => StoreError::TimedOut { budget: REQUEST_TIMEOUT },
        SdkError::DispatchFailure(dispatch) if dispatch.is_timeout() => {
            StoreError::TimedOut { budget: CONNECT_TIMEOUT }
        }
        SdkError::DispatchFailure(_) | SdkError::ResponseError(_) => {
            StoreError::Unreachable(failure(None, false))
        }
        SdkError::ServiceError(service) => {
            let code = service.err().code().map(str::to_owned);
            let throttled = code.as_deref().is_some_and(is_throttling);
            if throttled || service.raw().status().is_server_error() {
                StoreError::Unreachable(failure(code, true))
            } else {
                StoreError::Refused(failure(code, false))
            }
        }
        SdkError::ConstructionFailure(_) => StoreError::Refused(failure(None, false)),
        // The enum may grow; unknown errors are not repeated.
        _ => StoreError::Refused(failure(None, false)),
    }
}

fn is_throttling(code: &str) -> bool {
    const THROTTLING: [&str; 4] = [
        "ProvisionedThroughputExceededException",
        "ThrottlingException",
        "RequestLimitExceeded",
        "ReplicatedWriteConflictException",
    ];
    THROTTLING.contains(&code)
}

fn failure(error: &StoreError) -> Option<&DynamoDbFailure> {
    match error {
        StoreError::Unreachable(cause) | StoreError::Refused(cause) => cause.downcast_ref(),
        StoreError::TimedOut { .. }
        | StoreError::CoolingDown
        | StoreError::Away(_)
        | StoreError::Unreadable { .. } => None,
    }
}

fn is_throttled(error: &StoreError) -> bool {
    failure(error).and_then(DynamoDbFailure::code).is_some_and(is_throttling)
}

/// The time by which the last attempt of a call with this budget must begin: the deadline of
/// [`patiently`] in a call that begins now.
pub fn last_attempt_at(budget: Duration) -> Instant {
    Instant::now() + budget.saturating_sub(DEADLINE_MARGIN)
}

/// Repeats a request that was throttled or failed with a server error, with growing, jittered
/// delays, as long as another attempt may begin before the deadline. Transport failures end it: the
/// breaker handles those.
pub async fn patiently<T, F, Fut>(deadline: Instant, mut request: F) -> Result<T, StoreError>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, StoreError>>,
{
    for failures in 1.. {
        let error = match request().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let delay = THROTTLED.delay(failures, fastrand::f64());
        let repeat = failure(&error).is_some_and(|failure| failure.may_be_repeated);
        if !repeat || Instant::now() + delay >= deadline {
            return Err(error);
        }
        sleep(delay).await;
    }
    Err(StoreError::CoolingDown)
}

/// The failed stage and its root cause. The causes in between may contain whole requests with data.
fn stage_and_root(error: &dyn std::error::Error) -> String {
    let mut root = error;
    while let Some(cause) = root.source() {
        root = cause;
    }
    let text = format!("{error}: {root}");
    text.chars().take(ERROR_CHARACTERS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::error::ErrorMetadata;
    use aws_sdk_dynamodb::operation::get_item::GetItemError;
    use aws_smithy_runtime_api::client::result::ConnectorError;
    use aws_smithy_runtime_api::http::{Response, StatusCode};

    use super::*;

    fn service_error(code: &str, status: u16) -> SdkError<GetItemError> {
        let metadata = ErrorMetadata::builder().code(code).message("because").build();
        let raw = Response::new(StatusCode::try_from(status).unwrap(), "".into());
        SdkError::service_error(GetItemError::generic(metadata), raw)
    }

    fn word(error: &StoreError) -> &'static str {
        match error {
            StoreError::TimedOut { .. } => "timed out",
            StoreError::CoolingDown | StoreError::Away(_) => "cooling down",
            StoreError::Unreachable(_) => "unreachable",
            StoreError::Refused(_) => "refused",
            StoreError::Unreadable { .. } => "unreadable",
        }
    }

    #[test]
    fn service_errors_are_sorted_by_who_can_cure_them() {
        let check = |code: &str, status, expected: &str, repeated| {
            let error = classify(service_error(code, status));
            assert_eq!(word(&error), expected, "{code}");
            let failure = failure(&error).unwrap();
            assert_eq!(failure.code(), Some(code));
            assert_eq!(failure.may_be_repeated, repeated, "{code}");
            assert!(failure.to_string().contains("because"), "{failure}");
        };
        check("ProvisionedThroughputExceededException", 400, "unreachable", true);
        check("ThrottlingException", 400, "unreachable", true);
        check("RequestLimitExceeded", 400, "unreachable", true);
        check("InternalServerError", 500, "unreachable", true);
        check("ServiceUnavailable", 503, "unreachable", true);
        check("ResourceNotFoundException", 400, "refused", false);
        check("AccessDeniedException", 400, "refused", false);
        check("ValidationException", 400, "refused", false);
        check("UnrecognizedClientException", 400, "refused", false);
    }

    #[test]
    fn errors_on_the_way_are_transient_and_construction_is_not() {
        let check = |error: SdkError<GetItemError>, expected: &str| {
            assert_eq!(word(&classify(error)), expected);
        };
        check(SdkError::timeout_error("slow"), "timed out");
        check(SdkError::dispatch_failure(ConnectorError::timeout("slow".into())), "timed out");
        check(SdkError::dispatch_failure(ConnectorError::io("reset".into())), "unreachable");
        check(SdkError::construction_failure("no region"), "refused");
        let raw = Response::new(StatusCode::try_from(200).unwrap(), "".into());
        check(SdkError::response_error("cut", raw), "unreachable");
    }

    /// Checks the outcome and the number of attempts. `outcomes` lists the attempts in order: `t`
    /// throttled, `5` server error, `r` refused, `i` transport failure, `.` success.
    async fn check(outcomes: &str, deadline: Duration, expected: &str, attempts: usize) {
        let mut made = 0;
        let outcome = patiently(Instant::now() + deadline, || {
            let next = outcomes.chars().nth(made).or(outcomes.chars().last());
            made += 1;
            std::future::ready(match next {
                Some('t') => Err(classify(service_error("ThrottlingException", 400))),
                Some('5') => Err(classify(service_error("InternalServerError", 500))),
                Some('r') => Err(classify(service_error("ValidationException", 400))),
                Some('i') => Err(StoreError::Unreachable("reset".into())),
                _ => Ok(()),
            })
        })
        .await;
        assert_eq!(outcome.as_ref().map_or_else(word, |()| "done"), expected, "{outcomes}");
        assert_eq!(made, attempts, "{outcomes}");
    }

    #[tokio::test(start_paused = true)]
    async fn throttling_is_waited_out_and_other_errors_are_not() {
        let long = Duration::from_secs(5);
        check(".", long, "done", 1).await;
        check("tt5.", long, "done", 4).await;
        check("r", long, "refused", 1).await;
        check("ti", long, "unreachable", 2).await;
        check("t", Duration::ZERO, "unreachable", 1).await;
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends_before_the_deadline() {
        let begun = Instant::now();
        let mut attempts = 0;
        let outcome: Result<(), _> = patiently(begun + Duration::from_secs(5), || {
            attempts += 1;
            std::future::ready(Err(classify(service_error("ThrottlingException", 400))))
        })
        .await;
        assert!(is_throttled(&outcome.unwrap_err()));
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert!((6..20).contains(&attempts), "{attempts}");
    }

    #[test]
    fn endpoints_are_checked_before_they_are_used() {
        let check = |text: &str, expected| assert_eq!(is_web_url(text), expected, "{text}");
        check("http://localhost:8000", true);
        check("https://dynamodb.eu-west-1.amazonaws.com/", true);
        check("localhost:8000", false);
        check("ftp://localhost", false);
        check("not a URL", false);
        check("", false);
    }

    #[test]
    fn errors_show_no_requests() {
        #[derive(Debug, thiserror::Error)]
        #[error("failed with Request {{ body: data }}")]
        struct Dump(#[source] std::io::Error);
        let dump = Dump(std::io::Error::other("no route"));
        let error =
            SdkError::<GetItemError>::dispatch_failure(ConnectorError::other(dump.into(), None));
        let error = classify(error);
        assert_eq!(failure(&error).unwrap().to_string(), "dispatch failure: no route");
    }

    #[tokio::test]
    async fn a_client_is_made_without_a_word_to_the_network() {
        let settings = DynamoDbSettings {
            endpoint: Some("http://127.0.0.1:1".to_owned()),
            region: Some("eu-west-1".to_owned()),
            credentials: Some(StaticCredentials {
                access_key_id: "key".to_owned(),
                secret_access_key: Password::new("s3cret-s3cret"),
            }),
            probe_table: None,
        };
        assert!(!format!("{settings:?}").contains("s3cret-s"));
        let dialer = DynamoDbDialer::new(settings);
        let client = dialer.dial(&Meter::default()).await.unwrap();
        let error = dialer.check(client).await.unwrap_err();
        assert_eq!(word(&error), "unreachable");
    }
}
