//! The same over a Redis Cluster, where buckets live on different servers.

use std::fs::File;
use std::process::{Command, Stdio};
use std::time::Duration;

use reqwest::Method;
use tempfile::TempDir;

use crate::harness::{Gatehouse, Gateway, Process, eventually, free_port, spawn};

/// Three primaries.
struct Cluster {
    _nodes: Vec<(Process, TempDir)>,
    ports: Vec<u16>,
}

impl Cluster {
    async fn start() -> Self {
        let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
        let node = |port: &u16| {
            let dir = tempfile::tempdir().unwrap();
            let child = Command::new("redis-server")
                .current_dir(dir.path())
                .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
                .args(["--cluster-enabled", "yes", "--cluster-port", &free_port().to_string()])
                .args(["--appendonly", "yes", "--save", ""])
                .stdout(File::create(dir.path().join("log")).unwrap())
                .spawn()
                .expect("redis-server is installed (make test does that)");
            (Process(child), dir)
        };
        let cluster = Self { _nodes: ports.iter().map(node).collect(), ports };
        let up = || async { cluster.ports.iter().all(|port| cli(*port, &["PING"]) == "PONG") };
        assert!(eventually(Duration::from_secs(20), up).await);
        let nodes: Vec<String> =
            cluster.ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let created = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(nodes)
            .arg("--cluster-yes")
            .stdout(Stdio::null())
            .status();
        assert!(created.unwrap().success());
        let whole = || async {
            let state = |port| cli(port, &["CLUSTER", "INFO"]);
            cluster.ports.iter().all(|port| state(*port).contains("cluster_state:ok"))
        };
        assert!(eventually(Duration::from_secs(20), whole).await);
        cluster
    }
}

fn cli(port: u16, args: &[&str]) -> String {
    let output = Command::new("redis-cli").args(["-p", &port.to_string()]).args(args).output();
    String::from_utf8_lossy(&output.unwrap().stdout).trim().to_owned()
}

async fn gateway(house: &Gatehouse, cluster: &Cluster, name: &str) -> Gateway {
    let url = format!("redis.url=redis-cluster://127.0.0.1:{}", cluster.ports[0]);
    let config = house.dir.path().join("gatehouse.toml");
    let log = house.dir.path().join(name);
    let gateway = spawn(&config, &["--set", &url], &log).await;
    let up = eventually(Duration::from_secs(20), || gateway.ready()).await;
    assert!(up, "not ready: {}", std::fs::read_to_string(&log).unwrap());
    gateway
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_live_and_end_wherever_their_bucket_is() {
    let house = Gatehouse::with(0, &[]).await;
    let cluster = Cluster::start().await;
    let one = gateway(&house, &cluster, "one.log").await;
    let other = gateway(&house, &cluster, "other.log").await;
    let mut all = Vec::new();
    for i in 0..48 {
        let first = one.login(&format!("user-{i}")).await;
        let tokens = other.refresh(&first.refresh).await.tokens();
        assert_eq!(other.check(&tokens.access).await, 200);
        all.push(tokens);
    }
    let spread = cluster.ports.iter().all(|port| cli(*port, &["DBSIZE"]) != "0");
    assert!(spread, "every server has some");
    for tokens in &all[..32] {
        assert_eq!(one.call(Method::POST, "/api/v1/logout", tokens).await.status, 204);
        let refused = || async { other.check(&tokens.access).await == 401 };
        assert!(eventually(Duration::from_millis(250), refused).await);
        assert_eq!(other.refresh(&tokens.refresh).await.code(), "session_revoked");
    }
    let newcomer = gateway(&house, &cluster, "newcomer.log").await;
    for tokens in &all[..32] {
        assert_eq!(newcomer.check(&tokens.access).await, 401);
    }
    assert_eq!(one.admin(Method::POST, "/api/v1/admin/revoke-everything").await.status, 204);
    for gateway in [&one, &other, &newcomer] {
        for tokens in &all[32..] {
            let refused = || async { gateway.check(&tokens.access).await == 401 };
            assert!(eventually(Duration::from_millis(250), refused).await);
        }
    }
}
