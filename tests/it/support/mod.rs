//! What the integration tests share: real peers and the means to watch them.

pub(crate) mod sdk_driver;
