//! Requests that are part of a bulk call, whose progress limits their time.

use aws_sdk_dynamodb::client::customize::CustomizableOperation;
use aws_sdk_dynamodb::config::interceptors::BeforeDeserializationInterceptorContextMut;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_dynamodb::error::BoxError;
use aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use http_body_util::BodyExt as _;

use super::CONNECT_TIMEOUT;
use crate::storage::Meter;

/// Makes a request part of a bulk call: its time is limited by the progress that the meter shows,
/// not by the SDK's fixed times, which a long page exceeds on a slow connection.
pub fn as_part_of_bulk<T, E, B>(
    operation: CustomizableOperation<T, E, B>,
    meter: Meter,
) -> CustomizableOperation<T, E, B> {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .disable_operation_attempt_timeout()
        .disable_operation_timeout()
        .build();
    let config = aws_sdk_dynamodb::config::Builder::new().timeout_config(timeouts);
    operation.config_override(config).interceptor(Metering(meter))
}

/// Counts the bytes of answers as they arrive.
#[derive(Debug)]
struct Metering(Meter);

#[dyn_dispatch_hint]
impl Intercept for Metering {
    fn name(&self) -> &'static str {
        "Metering"
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let meter = self.0.clone();
        let body = context.response_mut().body_mut();
        let counted = std::mem::replace(body, SdkBody::taken()).map_frame(move |frame| {
            meter.add_received(frame.data_ref().map_or(0, Bytes::len));
            frame
        });
        *body = SdkBody::from_body_1_x(counted);
        Ok(())
    }
}
