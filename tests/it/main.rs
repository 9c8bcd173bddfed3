//! The one integration binary: a module a feature, `support` for what they share.

mod cold_start;
mod sdk_drivers;
mod support;
