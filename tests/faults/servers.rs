//! Redis servers that can be lost: primaries, replicas, Sentinels.

use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use tempfile::TempDir;

use crate::harness::{Process, eventually, free_port};

/// A server on a port of its own, with its files.
pub(crate) struct Server {
    pub(crate) port: u16,
    dir: TempDir,
    args: Vec<String>,
    process: Mutex<Option<Process>>,
}

impl Server {
    pub(crate) async fn start(args: &[&str]) -> Self {
        let server = Self {
            port: free_port(),
            dir: tempfile::tempdir().unwrap(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            process: Mutex::default(),
        };
        server.spawn();
        server.wait().await;
        server
    }

    /// Follows another from the start.
    pub(crate) async fn replica_of(primary: &Self, args: &[&str]) -> Self {
        let server = Self::start(args).await;
        server.follow(primary.port).await;
        server
    }

    pub(crate) fn spawn(&self) {
        let program = std::env::var("GATEHOUSE_TEST_REDIS").unwrap_or("redis-server".into());
        let child = Command::new(program)
            .current_dir(self.dir.path())
            .args(["--bind", "127.0.0.1", "--port", &self.port.to_string()])
            .args(["--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction"])
            .args(["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"])
            .args(["--enable-debug-command", "yes"])
            .args(&self.args)
            .stdout(File::create(self.dir.path().join("log")).unwrap())
            .spawn()
            .expect("redis-server is installed (make test does that)");
        *self.process.lock().unwrap() = Some(Process(child));
    }

    pub(crate) async fn wait(&self) {
        let up = || async { self.cli(&["PING"]) == "PONG" };
        assert!(eventually(Duration::from_secs(20), up).await, "redis-server does not start");
    }

    /// Takes over all of another server's data and what changes there.
    pub(crate) async fn follow(&self, primary: u16) {
        self.cli(&["REPLICAOF", "127.0.0.1", &primary.to_string()]);
        let linked =
            || async { self.cli(&["INFO", "replication"]).contains("master_link_status:up") };
        assert!(eventually(Duration::from_secs(20), linked).await, "the replica does not follow");
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(&self) {
        self.process.lock().unwrap().take();
    }

    pub(crate) fn signal(&self, signal: &str) {
        self.process.lock().unwrap().as_ref().unwrap().signal(signal);
    }

    pub(crate) fn cli(&self, args: &[&str]) -> String {
        cli(self.port, args)
    }
}

pub(crate) fn cli(port: u16, args: &[&str]) -> String {
    let output = Command::new("redis-cli").args(["-p", &port.to_string()]).args(args).output();
    String::from_utf8_lossy(&output.unwrap().stdout).trim().to_owned()
}

/// Three Sentinels that watch over a primary, and agree in a second that it is gone.
pub(crate) struct Sentinels {
    pub(crate) ports: Vec<u16>,
    _processes: Vec<(Process, TempDir)>,
}

impl Sentinels {
    pub(crate) async fn watch(primary: &Server, replicas: usize) -> Self {
        let start = |port: &u16| {
            let dir = tempfile::tempdir().unwrap();
            let config = format!(
                "bind 127.0.0.1\nport {port}\n\
                 sentinel monitor main 127.0.0.1 {} 2\n\
                 sentinel down-after-milliseconds main 1000\n\
                 sentinel failover-timeout main 3000\n",
                primary.port
            );
            fs::write(dir.path().join("sentinel.conf"), config).unwrap();
            let child = Command::new("redis-server")
                .current_dir(dir.path())
                .args(["sentinel.conf", "--sentinel"])
                .stdout(Stdio::null())
                .spawn()
                .expect("redis-server is installed (make test does that)");
            (Process(child), dir)
        };
        let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
        let sentinels = Self { _processes: ports.iter().map(start).collect(), ports };
        let complete = || async {
            sentinels.ports.iter().all(|port| {
                let known = cli(*port, &["SENTINEL", "MASTER", "main"]);
                let number = |name: &str| {
                    let mut lines = known.lines().skip_while(|line| *line != name);
                    lines.nth(1).and_then(|line| line.parse::<usize>().ok()).unwrap_or(0)
                };
                number("num-slaves") == replicas && number("num-other-sentinels") == 2
            })
        };
        assert!(eventually(Duration::from_mins(1), complete).await, "Sentinels do not agree");
        sentinels
    }

    pub(crate) fn primary(&self) -> u16 {
        let address = cli(self.ports[0], &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"]);
        address.lines().nth(1).and_then(|port| port.parse().ok()).unwrap_or(0)
    }

    pub(crate) fn url(&self) -> String {
        let [first, others @ ..] = &self.ports[..] else { unreachable!() };
        let node = |url: String, port: &u16| format!("{url}&node=127.0.0.1:{port}");
        let url = format!("redis-sentinel://127.0.0.1:{first}?sentinelServiceName=main");
        others.iter().fold(url, node)
    }
}

/// A Redis Cluster whose members agree in a second that one is gone.
pub(crate) struct Cluster {
    servers: Vec<Server>,
}

impl Cluster {
    pub(crate) async fn start(primaries: usize, replicas_each: usize) -> Self {
        let mut servers = Vec::new();
        for _ in 0..primaries * (1 + replicas_each) {
            let bus = free_port().to_string();
            let cluster = ["--cluster-enabled", "yes", "--cluster-port", &bus];
            let lenient =
                ["--cluster-node-timeout", "1000", "--cluster-require-full-coverage", "no"];
            servers.push(Server::start(&[&cluster[..], &lenient].concat()).await);
        }
        let cluster = Self { servers };
        let nodes = cluster.servers.iter().map(|server| format!("127.0.0.1:{}", server.port));
        let created = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(nodes)
            .args(["--cluster-replicas", &replicas_each.to_string(), "--cluster-yes"])
            .stdout(Stdio::null())
            .status();
        assert!(created.unwrap().success());
        let whole = || async {
            cluster.servers.iter().all(|server| {
                let replicated = !server.cli(&["INFO", "replication"]).contains("link_status:down");
                replicated && server.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
            }) && cluster.primaries().len() == primaries
        };
        assert!(eventually(Duration::from_secs(30), whole).await, "the cluster does not form");
        cluster
    }

    pub(crate) fn url(&self) -> String {
        format!("redis-cluster://127.0.0.1:{}", self.servers[0].port)
    }

    /// The ports of those that have slots.
    pub(crate) fn primaries(&self) -> Vec<u16> {
        let is_primary = |server: &&Server| server.cli(&["ROLE"]).starts_with("master");
        self.servers.iter().filter(is_primary).map(|server| server.port).collect()
    }

    /// The port of the server that has a bucket.
    pub(crate) fn owner(&self, bucket: &str) -> u16 {
        let key = format!("gh:{{{bucket}}}:feed");
        let owns = |server: &&Server| server.cli(&["EXISTS", &key]) == "1";
        self.servers.iter().find(owns).expect("a server that has the bucket").port
    }

    /// The one key that has this pattern.
    pub(crate) fn key(&self, pattern: &str) -> String {
        let scan = |server: &Server| server.cli(&["--scan", "--pattern", pattern]);
        self.servers.iter().map(scan).find(|found| !found.is_empty()).expect("such a key")
    }

    pub(crate) fn kill(&self, port: u16) {
        self.servers.iter().find(|server| server.port == port).unwrap().kill();
    }
}
