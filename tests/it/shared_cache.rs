//! The shared autoconfig cache as an operator meets it: the real binary, real databases, and a
//! LaunchDarkly that dies when it matters.
//!
//! What holds for every database is one function over [`database::Kind`]; `on_every_database!`
//! makes the tests of it.

/// Makes a test for each database of functions that take a [`database::Kind`].
macro_rules! on_every_database {
    ($($test:ident),+ $(,)?) => {
        on_every_database! { @kind redis Redis $($test)+ }
        on_every_database! { @kind dynamodb DynamoDb $($test)+ }
        on_every_database! { @kind consul Consul $($test)+ }
    };
    (@kind $module:ident $kind:ident $($test:ident)+) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $test() {
                    super::$test(pilotlight_test_kit::cache_database::Kind::$kind).await;
                }
            )+
        }
    };
}

mod age;
mod cold;
mod ld_relay;
mod local;
mod loss;
mod outage;
mod redis_topologies;
mod refusal;
mod rollback;
mod rotation;
mod upkeep;
mod writers;
