//! The SDK-facing server as its clients meet it: the real binary, byte by byte.

mod bad_input;
mod client_side;
mod compatibility;
mod compression;
mod descriptors;
mod events;
mod fdv2_sdks;
mod fixture;
mod goals;
mod leaving;
mod limits;
mod not_built;
mod page;
mod polling;
mod raw;
mod readiness;
mod routing;
mod selection;
mod slow_clients;
mod status;
mod streams;
