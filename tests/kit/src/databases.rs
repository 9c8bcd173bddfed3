//! Real databases, each one a process of its own on a free port of the loopback address, with
//! its files in a folder of its own. Dropping one kills it.

mod consul;
mod dynamodb;
mod redis;
mod redis_cluster;
mod redis_sentinel;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

pub use self::consul::{Consul, MASTER_TOKEN};
pub use self::dynamodb::{DynamoDb, settings_at};
pub use self::redis::Redis;
pub use self::redis_cluster::RedisCluster;
pub use self::redis_sentinel::{MASTER_NAME, SentinelGroup};
use crate::relay::free_address;
use crate::tools;

/// A program or folder of the tools. A missing one fails the test; it never passes in silence.
pub fn tool(path: &str) -> PathBuf {
    let found = tools().join(path);
    assert!(found.exists(), "{} is missing; run ./tests/install-tools.sh", found.display());
    found
}

/// A port that nobody uses, and that nobody gets while a database restarts.
pub fn free_port() -> u16 {
    free_address().unwrap().port()
}

/// A running program; killed when dropped, also while it is frozen.
pub struct Process {
    child: Mutex<Child>,
    output: PathBuf,
}

impl Process {
    /// Starts a program whose output goes to a file in `folder`, never to this process's pipes.
    pub fn start(mut command: Command, folder: &Path) -> Self {
        let output = folder.join("output");
        let file = File::create(&output).unwrap();
        command
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file);
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child: Mutex::new(child), output }
    }

    /// An error with what it printed, if it is not running any more.
    pub fn check(&self) -> Result<(), String> {
        match self.child.lock().unwrap().try_wait().unwrap() {
            None => Ok(()),
            Some(status) => Err(format!("it ended with {status}: {}", self.output())),
        }
    }

    /// What it has printed so far, to stdout and stderr.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.output).unwrap_or_default()).into_owned()
    }

    /// Stops it without its noticing: connections stay, answers do not come.
    pub fn freeze(&self) {
        self.signal("-STOP");
        // The signal stops each thread when that next runs, on a busy machine after an answer.
        while self.has_running_threads() {
            std::thread::yield_now();
        }
    }

    /// Whether a thread is not stopped yet; where nobody tells, none is.
    fn has_running_threads(&self) -> bool {
        let threads = format!("/proc/{}/task", self.child.lock().unwrap().id());
        let is_running = |thread: std::fs::DirEntry| {
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            // The state follows the name, which stands in parentheses. Dead threads do not stop.
            let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
            state.is_some_and(|state| !['T', 't', 'Z', 'X'].contains(&state))
        };
        std::fs::read_dir(threads).is_ok_and(|threads| threads.flatten().any(is_running))
    }

    /// Lets it go on after [`Self::freeze`].
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .arg(name)
            .arg(self.child.lock().unwrap().id().to_string())
            .status()
            .unwrap();
        assert!(status.success(), "kill {name}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap();
        let _ = child.kill();
        let _ = child.wait();
    }
}
