//! Official SDKs that are configured for FDv2, which the relay answers with the header that sends
//! them to FDv1.

use std::time::Duration;

use pilotlight::testing::model::SdkKey;
use serde_json::json;

use super::fixture::{SDK_KEY, Site};
use pilotlight_test_kit::sdk_driver::{Language, Mode, SdkDriver};

/// SDKs wait for a few seconds before some of their attempts.
const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn every_fdv2_mode_of_python_and_node_gets_its_flags() {
    let site = Site::manual().await;
    let key = SdkKey::new(SDK_KEY);
    for language in [Language::Python, Language::Node] {
        for mode in [Mode::Fdv2, Mode::Fdv2Stream, Mode::Fdv2Poll] {
            let mut sdk = SdkDriver::start(language, &key, &site.relay.url(), mode).await.unwrap();
            let init = sdk.wait_init(LIMIT).await.unwrap();
            assert!(init.initialized, "{language} {mode:?}: {}", sdk.log());
            let given = sdk.eval("web", "none").await.unwrap();
            assert_eq!(given.value, json!(true), "{language} {mode:?}");
            sdk.quit().await.unwrap();
        }
    }
}
