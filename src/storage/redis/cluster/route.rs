//! The destination of commands in a cluster. Pure.

use redis::{Arg, Cmd, ErrorKind, Pipeline, RedisError};

use super::super::slots::slot_of;

/// The servers of a cluster to which a command is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Destination {
    /// The owner of this slot.
    Slot(u16),
    /// All masters: each has its own cache of scripts, and its own availability.
    Everywhere,
    /// Any master.
    Anywhere,
}

/// The destination of a command. It is that of its first key: a server refuses commands with
/// keys of several slots.
pub(super) fn destination(cmd: &Cmd) -> Destination {
    let mut words = cmd.args_iter().map(|argument| match argument {
        Arg::Simple(word) => word,
        Arg::Cursor | _ => b"",
    });
    let name = words.next().unwrap_or_default().to_ascii_uppercase();
    match &name[..] {
        b"PING" | b"SCRIPT" => Destination::Everywhere,
        b"EVAL" | b"EVALSHA" | b"EVAL_RO" | b"EVALSHA_RO" | b"FCALL" | b"FCALL_RO" => {
            match (words.nth(1), words.next()) {
                (None | Some(b"0"), _) | (Some(_), None) => Destination::Anywhere,
                (Some(_), Some(key)) => Destination::Slot(slot_of(key)),
            }
        }
        b"ACL" | b"AUTH" | b"CLIENT" | b"CLUSTER" | b"COMMAND" | b"CONFIG" | b"DBSIZE"
        | b"DISCARD" | b"ECHO" | b"EXEC" | b"HELLO" | b"INFO" | b"MEMORY" | b"MULTI" | b"ROLE"
        | b"SCAN" | b"SELECT" | b"TIME" | b"UNWATCH" | b"WAIT" => Destination::Anywhere,
        _ => words.next().map_or(Destination::Anywhere, |key| Destination::Slot(slot_of(key))),
    }
}

/// The slot of all keys of a pipeline; `None` without keys. A pipeline is sent to one server.
pub(super) fn slot_of_all(pipeline: &Pipeline) -> Result<Option<u16>, RedisError> {
    let mut common = None;
    for cmd in pipeline.cmd_iter() {
        match destination(cmd) {
            Destination::Slot(slot) if common.is_some_and(|other| other != slot) => {
                let what = "the keys of one pipeline are in different slots of the cluster";
                return Err(RedisError::from((ErrorKind::Client, what)));
            }
            Destination::Slot(slot) => common = Some(slot),
            Destination::Everywhere | Destination::Anywhere => {}
        }
    }
    Ok(common)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Destination::{Anywhere, Everywhere, Slot};

    fn cmd(words: &str) -> Cmd {
        let mut cmd = Cmd::new();
        for word in words.split(' ') {
            cmd.arg(word);
        }
        cmd
    }

    #[test]
    fn commands_go_to_the_owner_of_their_first_key() {
        let check =
            |words: &str, expected| assert_eq!(destination(&cmd(words)), expected, "{words}");
        let features = Slot(5868);
        check("HGETALL launchdarkly:features", features);
        check("hset launchdarkly:features f 1", features);
        check("EXISTS launchdarkly:$inited", Slot(5466));
        check("WATCH launchdarkly:features", features);
        check("EVAL text 1 launchdarkly:features f", features);
        check("evalsha abc 2 launchdarkly:features other", features);
        check("EVAL text 0 launchdarkly:features", Anywhere);
        check("EVAL text", Anywhere);
        check("SCRIPT LOAD text", Everywhere);
        check("PING", Everywhere);
        check("INFO server", Anywhere);
        check("CLUSTER SLOTS", Anywhere);
        check("RANDOMKEY", Anywhere);
        assert_eq!(destination(&Cmd::new()), Anywhere);
    }

    #[test]
    fn pipelines_have_one_slot() {
        let check = |lines: &[&str]| {
            let mut pipeline = redis::pipe();
            for line in lines {
                pipeline.add_command(cmd(line));
            }
            slot_of_all(&pipeline)
        };
        assert_eq!(
            check(&["HGET {ld}:features a", "PING", "SET {ld}:$inited x"]).unwrap(),
            Some(8805)
        );
        assert_eq!(check(&["PING"]).unwrap(), None);
        assert_eq!(check(&[]).unwrap(), None);
        let error = check(&["HGET a f", "HGET b f"]).unwrap_err();
        assert!(error.to_string().contains("different slots"), "{error}");
    }
}
