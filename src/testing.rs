//! The parts of the product that integration tests, benchmarks and fuzz targets use (cargo feature
//! `testing`). Everything else is private, so the compiler finds unused code.

/// See [`crate::archive`].
pub mod archive {
    pub use crate::archive::{Archive, ArchiveState};
}
/// See [`crate::autoconfig`].
pub mod autoconfig {
    /// The cache's databases, rows and texts.
    pub mod cache {
        #[cfg(any(feature = "redis", feature = "dynamodb", feature = "consul"))]
        pub use crate::autoconfig::cache::RecordTable;
        pub use crate::autoconfig::cache::codec::{Codec, OpenedRow};
        pub use crate::autoconfig::cache::manifest::Manifest;
        pub use crate::autoconfig::cache::plan::{Claim, Known};
        pub use crate::autoconfig::cache::{Backend, Row, Swap, Swapped};
    }
    pub use crate::autoconfig::record_set::Stamp;
    pub use crate::autoconfig::specs::SpecSettings;
    pub use crate::autoconfig::{messages, records};
}

/// See [`crate::config`].
pub mod config {
    pub use crate::config::{
        Config, ConfigFile, ConfigSource, Files, Loaded, Problems, Variables, load,
    };
}

/// See [`crate::demo`].
#[cfg(feature = "demo")]
pub mod demo {
    pub use crate::demo::{
        composed_data, fake_launchdarkly, kept_port, representations, shaped_io, stream_client,
    };
}

/// See [`crate::evaluation`].
pub mod evaluation {
    pub use crate::evaluation::{
        Audience, Context, Evaluator, Flag, Lookup, NoBigSegments, Segment, write_result,
    };
}

/// See [`crate::events`].
pub mod events {
    pub use crate::events::decoding;
}
/// See [`crate::flagstore`].
pub mod flagstore {
    pub use crate::flagstore::encoding::Decoded;
    #[cfg(any(feature = "redis", feature = "dynamodb", feature = "consul"))]
    pub use crate::flagstore::table;
    pub use crate::flagstore::{
        DataSetId, LocalFlags, ReadOutcome, backend, inventory, layout, marker,
    };
}

/// See [`crate::model`].
pub mod model {
    pub use crate::model::{
        ChangeSet, DataSet, EnvironmentRef, FilterKey, Item, ItemKey, ItemKind, ItemMap, Origin,
        Password, RedactedUrl, SdkKey,
    };
}
/// See [`crate::sealing`].
pub mod sealing {
    pub use crate::sealing::{KeyRing, SealingKey};
}
/// See [`crate::server`].
pub mod server {
    pub use crate::server::decoding;
}
/// See [`crate::source`].
pub mod source {
    pub use crate::source::decoding;
}
/// See [`crate::sse`].
pub mod sse {
    pub use crate::sse::{Event, EventWriter, Limits, ParseError, Parsed, Parser, encode};
}
/// See [`crate::storage`].
pub mod storage {
    #[cfg(feature = "consul")]
    pub use crate::storage::consul;
    #[cfg(feature = "dynamodb")]
    pub use crate::storage::dynamodb;
    pub use crate::storage::fail_fast;
    #[cfg(feature = "redis")]
    pub use crate::storage::redis;
    #[cfg(any(feature = "redis", feature = "dynamodb", feature = "consul"))]
    pub use crate::storage::table;
    #[cfg(any(feature = "redis", feature = "consul"))]
    pub use crate::storage::tls;
    pub use crate::storage::{BreakerState, Budgets, Dialer, FailFast, Meter, StoreError};
    /// See [`crate::storage::local`].
    pub mod local {
        pub use crate::storage::local::{Adoption, KeyFile, LocalStore, LocalStoreError, decoding};
    }
}
/// See [`crate::streams`].
pub mod streams {
    pub use crate::streams::{Next, Snapshot};
}
/// See [`crate::tasks`].
pub mod tasks {
    pub use crate::tasks::TaskGroup;
}
