//! The data types of the domain: credentials, environments, flag data.
//!
//! No code here waits, reads a clock, or accesses a file or a socket.

mod change_set;
mod connection_status;
mod environment;
mod flag_data;
mod hex;
mod item;
mod item_map;
mod keys;
pub mod raw_json;
mod same_json;
mod times;

pub use change_set::ChangeSet;
pub use connection_status::{ConnectionState, ConnectionStatus, ErrorKind};
pub use environment::{
    AcceptedKey, CredentialSet, EnvironmentChange, EnvironmentRef, EnvironmentSpec, ListState,
};
pub use flag_data::{DataSet, Origin};
pub use hex::hex;
pub use item::{Item, ItemKey, ItemKind};
pub use item_map::ItemMap;
pub use keys::{
    AutoConfigKey, Credential, EnvironmentId, FilterKey, MobileKey, Password, RedactedUrl, SdkKey,
    obscured,
};
pub use same_json::same_json;
pub use times::unix_ms;
