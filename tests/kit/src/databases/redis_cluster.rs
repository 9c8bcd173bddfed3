//! A Redis Cluster.

use pilotlight::testing::model::RedactedUrl;
use pilotlight::testing::storage::redis::ClusterSettings;
use pilotlight::testing::storage::redis::slots::{SLOT_COUNT, slot_of};

use super::redis::{tls_arguments, tls_settings};
use super::{Redis, free_port};
use crate::certificates::Certificates;
use crate::eventually;
use crate::relay::RelaySettings;

/// Masters first, then a replica for each of them, if there are replicas.
pub struct RedisCluster<'a> {
    /// All servers; methods name a server by its place here.
    pub servers: Vec<Redis>,
    masters: usize,
    certificates: Option<&'a Certificates>,
    program: Program,
}

#[derive(Clone, Copy)]
enum Program {
    Redis,
    Valkey,
}

impl<'a> RedisCluster<'a> {
    /// Masters that share all slots evenly.
    pub async fn start(masters: usize) -> Self {
        Self::launch(Program::Redis, masters, false, None).await
    }

    /// The same of Valkey.
    pub async fn start_valkey(masters: usize) -> Self {
        Self::launch(Program::Valkey, masters, false, None).await
    }

    /// With a replica for each master.
    pub async fn start_with_replicas(masters: usize) -> Self {
        Self::launch(Program::Redis, masters, true, None).await
    }

    /// TLS only, and only for clients that show a certificate.
    pub async fn start_tls(masters: usize, certificates: &'a Certificates) -> Self {
        Self::launch(Program::Redis, masters, false, Some(certificates)).await
    }

    async fn launch(
        program: Program,
        masters: usize,
        with_replicas: bool,
        certificates: Option<&'a Certificates>,
    ) -> Self {
        let count = if with_replicas { 2 * masters } else { masters };
        let mut cluster = Self { servers: Vec::new(), masters, certificates, program };
        let mut bus_ports = Vec::new();
        for _ in 0..count {
            let bus_port = free_port();
            cluster.servers.push(start_server(program, bus_port, certificates).await);
            bus_ports.push(bus_port.to_string());
        }
        let share = usize::from(SLOT_COUNT).div_ceil(masters);
        for (place, server) in cluster.servers[..masters].iter().enumerate() {
            let first = place * share;
            let last = (first + share).min(SLOT_COUNT.into()) - 1;
            cluster.ask(server, &["ADDSLOTSRANGE", &first.to_string(), &last.to_string()]);
            let epoch = (place + 1).to_string();
            cluster.ask(server, &["SET-CONFIG-EPOCH", &epoch]);
        }
        let first = &cluster.servers[0];
        for (server, bus_port) in cluster.servers.iter().zip(&bus_ports).skip(1) {
            cluster.ask(first, &["MEET", "127.0.0.1", &server.port.to_string(), bus_port]);
        }
        cluster.is_in_order().await;
        for place in masters..count {
            let master = cluster.id(place - masters);
            cluster.ask(&cluster.servers[place], &["REPLICATE", &master]);
        }
        for replica in &cluster.servers[masters..] {
            replica.is_in_sync().await;
        }
        cluster.knows_its_replicas().await;
        cluster
    }

    /// Starts another master, without slots.
    pub async fn add_master(&mut self) -> usize {
        assert_eq!(self.servers.len(), self.masters, "replicas come last");
        let bus_port = free_port();
        let server = start_server(self.program, bus_port, self.certificates).await;
        let port = server.port.to_string();
        self.ask(&self.servers[0], &["MEET", "127.0.0.1", &port, &bus_port.to_string()]);
        self.servers.push(server);
        self.masters += 1;
        self.is_in_order().await;
        self.masters - 1
    }

    /// How a relay gets there: knowing one of the servers only.
    pub fn settings(&self) -> ClusterSettings {
        self.settings_of("", "")
    }

    /// With a login such as `user:password@` and a path such as `/1`.
    pub fn settings_of(&self, login: &str, path: &str) -> ClusterSettings {
        let scheme = if self.certificates.is_some() { "rediss" } else { "redis" };
        let port = self.servers[0].port;
        let url = RedactedUrl::new(format!("{scheme}://{login}127.0.0.1:{port}{path}"));
        let settings = ClusterSettings::from_urls(&[url]).unwrap();
        match self.certificates {
            Some(certificates) => settings.with_tls(&tls_settings(certificates)),
            None => settings,
        }
    }

    /// Tells a relay of it.
    pub fn configure(&self, settings: RelaySettings) -> RelaySettings {
        let urls: Vec<String> =
            self.servers.iter().map(|it| format!("redis://127.0.0.1:{}", it.port)).collect();
        settings
            .with("USE_REDIS", "true")
            .with("REDIS_MODE", "cluster")
            .with("REDIS_URLS", urls.join(","))
    }

    /// The place of the server that owns the slot of a key by its own account.
    pub fn owner(&self, key: &str) -> usize {
        self.find_owner(key).unwrap()
    }

    /// The same; `None` while nobody owns it.
    pub fn find_owner(&self, key: &str) -> Option<usize> {
        let has_it = |place: &usize| {
            let answer = self.servers[*place].command(&["EXISTS", key]);
            ["0", "1"].contains(&answer.as_str())
        };
        (0..self.servers.len()).find(has_it)
    }

    /// The replica of a master.
    pub fn replica_of(&self, master: usize) -> &Redis {
        &self.servers[master + self.masters]
    }

    /// Waits until the replica of a master has all rows of a hash, and says how many these are.
    pub async fn copied(&self, key: &str, master: usize) -> usize {
        let count = |info: String| info.parse::<usize>().unwrap();
        let goal = count(self.servers[master].command(&["HLEN", key]));
        let replica = self.replica_of(master);
        eventually("copies", async || {
            // Replicas send readers away unless these say on each connection that they know.
            let there = replica.script(&format!("READONLY\nHLEN {key}\n"));
            let there = there.lines().last().map(|line| count(line.to_owned())).unwrap();
            if there >= goal { Ok(()) } else { Err(format!("{there} of {goal}")) }
        })
        .await;
        goal
    }

    /// Begins to move the slot of a key: what is not there yet is asked for at the new place.
    pub fn begin_to_move(&self, key: &str, from: usize, to: usize) {
        let slot = slot_of(key.as_bytes()).to_string();
        let servers = &self.servers;
        self.ask(&servers[to], &["SETSLOT", &slot, "IMPORTING", &self.id(from)]);
        self.ask(&servers[from], &["SETSLOT", &slot, "MIGRATING", &self.id(to)]);
    }

    /// The keys in the slot of this one, itself included, that a server has.
    pub fn keys_beside(&self, key: &str, server: usize) -> Vec<String> {
        let slot = slot_of(key.as_bytes()).to_string();
        let keys = self.servers[server].command(&["CLUSTER", "GETKEYSINSLOT", &slot, "1000"]);
        keys.lines().map(str::to_owned).collect()
    }

    /// Moves the key, if it is there; the slot stays.
    pub fn move_key(&self, key: &str, from: usize, to: usize) {
        let port = self.servers[to].port.to_string();
        let moved = self.servers[from].command(&["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]);
        assert!(["OK", "NOKEY"].contains(&moved.as_str()), "{moved}");
    }

    /// Moves the key, if it is there, and then the slot.
    pub fn finish_to_move(&self, key: &str, from: usize, to: usize) {
        self.move_key(key, from, to);
        let slot = slot_of(key.as_bytes()).to_string();
        let servers = &self.servers;
        let new_owner = self.id(to);
        self.ask(&servers[to], &["SETSLOT", &slot, "NODE", &new_owner]);
        self.ask(&servers[from], &["SETSLOT", &slot, "NODE", &new_owner]);
    }

    /// Runs a command on every server.
    pub fn everywhere(&self, arguments: &[&str]) -> Vec<String> {
        self.servers.iter().map(|server| server.command(arguments)).collect()
    }

    fn id(&self, place: usize) -> String {
        self.servers[place].command(&["CLUSTER", "MYID"])
    }

    fn ask(&self, server: &Redis, arguments: &[&str]) {
        let answer = server.command(&[&["CLUSTER"], arguments].concat());
        assert_eq!(answer, "OK", "CLUSTER {arguments:?}");
    }

    /// Waits until every server sees all the others and all slots served.
    async fn is_in_order(&self) {
        let nodes = format!("cluster_known_nodes:{}\r", self.servers.len());
        for server in &self.servers {
            eventually("the cluster being in order", async || {
                let info = server.command(&["CLUSTER", "INFO"]) + "\r";
                let all = info.contains("cluster_state:ok") && info.contains(&nodes);
                // Sockets and names of all servers, which come with the first gossip.
                let nodes = server.command(&["CLUSTER", "NODES"]);
                if all && !nodes.contains("handshake") { Ok(()) } else { Err(info + &nodes) }
            })
            .await;
        }
    }

    /// Waits until every server has heard who is a replica: only then may one take over.
    async fn knows_its_replicas(&self) {
        let replicas = self.servers.len() - self.masters;
        for server in &self.servers {
            eventually("replicas being known", async || {
                let nodes = server.command(&["CLUSTER", "NODES"]);
                if nodes.matches("slave").count() == replicas { Ok(()) } else { Err(nodes) }
            })
            .await;
        }
    }
}

async fn start_server(
    program: Program,
    bus_port: u16,
    certificates: Option<&Certificates>,
) -> Redis {
    let bus_port = bus_port.to_string();
    let mut arguments = vec![
        "--cluster-enabled",
        "yes",
        "--cluster-config-file",
        "nodes.conf",
        "--cluster-port",
        &bus_port,
        // Long enough that a busy machine is not taken for a dead server.
        "--cluster-node-timeout",
        "5000",
        // A master that gives its last slot away stays one.
        "--cluster-allow-replica-migration",
        "no",
        "--repl-diskless-sync-delay",
        "0",
    ];
    let tls = certificates.map(tls_arguments).unwrap_or_default();
    if certificates.is_some() {
        arguments.extend(tls.iter().map(String::as_str));
        arguments.extend(["--tls-cluster", "yes", "--tls-replication", "yes"]);
    }
    match program {
        Program::Redis => Redis::start_with(&arguments).await,
        Program::Valkey => Redis::start_valkey_with(&arguments).await,
    }
}
