//! Automatic configuration through the real binary: what LaunchDarkly says about environments,
//! keys and filters, in order and out of order, well-formed and not, and what clients see of it.

mod credentials;
mod environments;
mod filters;
mod malformed;
mod rejected_key;
mod rotation;
mod status;
mod wiping;
