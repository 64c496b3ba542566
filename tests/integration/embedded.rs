//! The Redis that a gateway starts for itself.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::harness::{Gateway, Process, SERVICE_KEY, eventually, sha256, spawn};

const SOON: Duration = Duration::from_secs(10);

struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn socket(&self) -> PathBuf {
        self.state().join("redis.sock")
    }

    fn settings(&self) -> Vec<String> {
        [
            "server.listen=127.0.0.1:0".to_owned(),
            "server.ops_listen=127.0.0.1:0".to_owned(),
            "log.format=json".to_owned(),
            format!("redis.state_dir={}", self.state().display()),
        ]
        .into_iter()
        .flat_map(|setting| ["--set".to_owned(), setting])
        .collect()
    }

    async fn start(&self) -> Gateway {
        let config = self.dir.path().join("gatehouse.toml");
        let key = format!(
            "[[login.service_keys]]\nname = 'test'\nsha256 = '{}'\nscopes = ['sessions:create']\n",
            sha256(SERVICE_KEY)
        );
        fs::write(&config, key).unwrap();
        let settings = self.settings();
        let args: Vec<&str> = settings.iter().map(String::as_str).collect();
        let gateway = spawn(&config, &args, &self.dir.path().join("log")).await;
        assert!(eventually(SOON, || async { gateway.ready().await }).await);
        gateway
    }

    /// Starts a gateway that must fail. What it said.
    fn fails(&self, more: &[&str]) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_gatehouse"))
            .arg("serve")
            .args(self.settings())
            .args(more)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    }
}

fn answers(socket: &Path) -> bool {
    UnixStream::connect(socket).is_ok()
}

fn pid_of_redis(socket: &Path) -> String {
    let output =
        Command::new("redis-cli").arg("-s").arg(socket).args(["INFO", "server"]).output().unwrap();
    let info = String::from_utf8(output.stdout).unwrap();
    info.lines().find_map(|line| line.strip_prefix("process_id:")).unwrap().trim().to_owned()
}

#[tokio::test]
async fn sessions_survive_a_stop_and_the_server_ends_last() {
    let place = Place::new();
    let gateway = place.start().await;
    let tokens = gateway.login("ann").await;
    gateway.process.signal("TERM");
    let mut gateway = gateway;
    let ended = || async { !answers(&place.socket()) };
    assert!(eventually(SOON, ended).await);
    assert!(gateway.process.0.wait().unwrap().success());
    let log = fs::read_to_string(place.dir.path().join("log")).unwrap();
    assert!(log.contains("stopped"), "{log}");
    let gateway = place.start().await;
    assert_eq!(gateway.refresh(&tokens.refresh).await.status, 200);
}

#[tokio::test]
async fn a_killed_gateway_takes_its_server_with_it_and_loses_nothing() {
    let place = Place::new();
    let gateway = place.start().await;
    let tokens = gateway.login("ann").await;
    gateway.process.signal("KILL");
    assert!(eventually(Duration::from_secs(5), || async { !answers(&place.socket()) }).await);
    let gateway = place.start().await;
    assert_eq!(gateway.refresh(&tokens.refresh).await.status, 200);
}

#[tokio::test]
async fn a_server_that_dies_is_started_again() {
    let place = Place::new();
    let gateway = place.start().await;
    let tokens = gateway.login("ann").await;
    let pid = pid_of_redis(&place.socket());
    Command::new("kill").args(["-KILL", &pid]).status().unwrap();
    let back = || async { gateway.refresh(&tokens.refresh).await.status == 200 };
    assert!(eventually(SOON, back).await);
    assert_ne!(pid_of_redis(&place.socket()), pid);
}

#[tokio::test]
async fn a_second_gateway_is_kept_out() {
    let place = Place::new();
    let gateway = place.start().await;
    let said = place.fails(&[]);
    let pid = gateway.process.0.id();
    assert!(said.contains(&format!("in use by another gateway (pid {pid})")), "{said}");
    assert_eq!(gateway.login("ann").await.session.len(), 22, "the first one goes on");
}

#[tokio::test]
async fn without_a_server_one_line_says_what_to_do() {
    let place = Place::new();
    let said = place.fails(&["--set", "redis.binary=/nonexistent/redis-server"]);
    assert!(
        said.contains("no Redis found") && said.contains("apt-get install redis-server"),
        "{said}"
    );
    assert_eq!(said.trim().lines().count(), 1, "{said}");
}

#[tokio::test]
async fn a_server_left_over_by_a_killed_gateway_is_replaced() {
    let place = Place::new();
    fs::create_dir(place.state()).unwrap();
    let child = Command::new("redis-server")
        .args(["--port", "0", "--save", "", "--unixsocket"])
        .arg(place.socket())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut leftover = Process(child);
    assert!(eventually(SOON, || async { answers(&place.socket()) }).await);
    let gateway = place.start().await;
    assert!(leftover.0.try_wait().unwrap().is_some(), "it was shut down");
    gateway.login("ann").await;
}

#[tokio::test]
async fn a_socket_that_nobody_listens_on_is_in_nobodys_way() {
    let place = Place::new();
    fs::create_dir(place.state()).unwrap();
    drop(std::os::unix::net::UnixListener::bind(place.socket()).unwrap());
    place.start().await.login("ann").await;
}

#[tokio::test]
async fn a_broken_file_is_named_and_nothing_is_lost() {
    let place = Place::new();
    let gateway = place.start().await;
    gateway.login("ann").await;
    gateway.process.signal("KILL");
    assert!(eventually(SOON, || async { !answers(&place.socket()) }).await);
    let aof = place.state().join("appendonlydir");
    let file = fs::read_dir(&aof)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_string_lossy().contains("incr"))
        .unwrap();
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 40].fill(b'!');
    fs::write(&file, &bytes).unwrap();
    let said = place.fails(&[]);
    assert!(said.contains("redis.log"), "{said}");
    assert_eq!(fs::read(&file).unwrap(), bytes, "left as it was");
}
