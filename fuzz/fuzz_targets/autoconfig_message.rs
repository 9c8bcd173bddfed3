//! Any bytes as a message of the autoconfig stream: the decoder does not panic, and an environment
//! or filter that is taken over is the same after it was in the cache.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pilotlight::testing::autoconfig::messages::{Message, decode};
use pilotlight::testing::autoconfig::records::{
    EnvironmentRecord, FilterRecord, Record, decode as read, encode_environment, encode_filter,
};

fn check_environment(record: &EnvironmentRecord) {
    let text = encode_environment(record);
    match read(text.as_bytes()) {
        Ok(Record::Environment { record: again, .. }) => assert_eq!(&again, record),
        other => panic!("{other:?}"),
    }
}

fn check_filter(record: &FilterRecord) {
    match read(encode_filter(record).as_bytes()) {
        Ok(Record::Filter(again)) => assert_eq!(&again, record),
        other => panic!("{other:?}"),
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((event, data)) = bytes.split_first() else { return };
    let event = ["put", "patch", "delete", "reconnect", "other"][usize::from(*event) % 5];
    match decode(event, data) {
        Ok(Message::Put(put)) => {
            put.environments
                .iter()
                .filter_map(|(_, it)| it.as_ref().ok())
                .for_each(check_environment);
            put.filters.iter().filter_map(|(_, it)| it.as_ref().ok()).for_each(check_filter);
        }
        Ok(Message::PatchEnvironment(_, Ok(record))) => check_environment(&record),
        Ok(Message::PatchFilter(_, record)) => check_filter(&record),
        Ok(_) => {}
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
