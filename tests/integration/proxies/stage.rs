//! A real proxy on its example configuration, a real gateway that it asks, and an application.

use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use super::echo::Echo;
use crate::harness::{Gatehouse, Gateway, Process, eventually, free_port};

/// Where clients are: not in `server.trusted_proxies`.
pub(super) const CLIENT: &str = "127.0.0.2";

/// Which one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Nginx,
    Traefik,
    Caddy,
    Haproxy,
    EnvoyHttp,
    EnvoyGrpc,
}

impl Kind {
    fn example(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Traefik => "traefik",
            Self::Caddy => "caddy",
            Self::Haproxy => "haproxy",
            Self::EnvoyHttp => "envoy-http",
            Self::EnvoyGrpc => "envoy-grpc",
        }
    }

    fn command(self) -> Command {
        let (program, args) = match self {
            Self::Nginx => (
                PathBuf::from("nginx"),
                "-p . -e stderr -c nginx.conf -g|daemon off; master_process off;",
            ),
            Self::Traefik => (installed("bin/traefik"), "--configFile=traefik.yml"),
            Self::Caddy => (installed("bin/caddy"), "run --config Caddyfile"),
            Self::Haproxy => (PathBuf::from("haproxy"), "-db -f haproxy.cfg"),
            Self::EnvoyHttp | Self::EnvoyGrpc => {
                (envoy(), "-c envoy.yaml --concurrency 1 --disable-hot-restart --log-level warning")
            }
        };
        let mut command = Command::new(program);
        let (words, last) = args.split_once('|').unwrap_or((args, ""));
        command.args(words.split(' ')).args(Some(last).filter(|last| !last.is_empty()));
        command
    }
}

/// Where scripts/install puts them.
fn installed(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/proxies").join(path)
}

fn envoy() -> PathBuf {
    let versions = fs::read_dir(installed("lib")).into_iter().flatten();
    let programs =
        versions.map(|version| version.unwrap().path().join("site-packages/envoy/_bin/envoy"));
    programs.into_iter().find(|path| path.exists()).unwrap_or_default()
}

/// What tests see of it.
pub(super) struct Stage {
    pub(super) kind: Kind,
    pub(super) gatehouse: Gatehouse,
    pub(super) echo: Echo,
    port: u16,
    dir: tempfile::TempDir,
    _proxy: Process,
}

impl Stage {
    /// With settings of the gateway (`key=value`).
    pub(super) async fn set(kind: Kind, settings: &[&str]) -> Self {
        let common = [
            "server.grpc_listen=127.0.0.1:0",
            "login.url=https://login.example/",
            "check.activity_flush=100ms",
        ];
        let gatehouse = Gatehouse::with(1, &[&common, settings].concat()).await;
        let echo = Echo::start().await;
        let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
        let gateway = gatehouse.gateway();
        write(
            kind,
            dir.path(),
            &[
                ("8080", gateway.url.rsplit_once(':').unwrap().1),
                ("9191", gateway.grpc.rsplit_once(':').unwrap().1),
                ("8000", &port.to_string()),
                ("8001", &echo.port.to_string()),
            ],
        );
        let child = kind
            .command()
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(File::create(dir.path().join("stdout")).unwrap())
            .stderr(File::create(dir.path().join("stderr")).unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("{kind:?} (make setup-test installs it): {error}"));
        let stage = Self { kind, gatehouse, echo, port, dir, _proxy: Process(child) };
        let up = || async {
            let Ok(stream) = connect(port).await else { return false };
            // A proxy that knows no routes yet answers with 404.
            exchange(stream, &get("/", &[])).await.is_some_and(|reply| reply.status == 401)
        };
        assert!(eventually(Duration::from_secs(20), up).await, "{}", stage.said());
        stage
    }

    pub(super) fn gateway(&self) -> &Gateway {
        self.gatehouse.gateway()
    }

    /// What the proxy wrote.
    pub(super) fn said(&self) -> String {
        let read = |name: &str| fs::read_to_string(self.dir.path().join(name)).unwrap();
        read("stdout") + &read("stderr")
    }

    pub(super) async fn connect(&self) -> TcpStream {
        connect(self.port).await.unwrap()
    }

    /// Sends exactly these bytes. Panics when there is no answer within ten seconds.
    pub(super) async fn send(&self, request: &[u8]) -> Reply {
        let reply = exchange(self.connect().await, request).await;
        reply.unwrap_or_else(|| panic!("no answer: {}", self.said()))
    }

    /// Sends a GET and says whether the application saw it.
    pub(super) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> (Reply, bool) {
        let before = self.echo.seen();
        let reply = self.send(&get(path, headers)).await;
        (reply, self.echo.seen() > before)
    }
}

/// As a client whom nobody trusts.
async fn connect(port: u16) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(CLIENT.parse().unwrap(), 0))?;
    socket.connect(([127, 0, 0, 1], port).into()).await
}

/// The example, with other ports.
fn write(kind: Kind, dir: &Path, ports: &[(&str, &str)]) {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    for entry in fs::read_dir(examples.join(kind.example())).unwrap() {
        let path = entry.unwrap().path();
        let mut text = fs::read_to_string(&path).unwrap();
        if kind == Kind::Nginx {
            // Its own application, which others play here, listens elsewhere.
            let elsewhere = format!("listen 127.0.0.1:{}", free_port());
            text = text.replace("listen 127.0.0.1:8001", &elsewhere);
        }
        for (port, other) in ports {
            for before in [":", "port_value: "] {
                text = text.replace(&format!("{before}{port}"), &format!("{before}\u{1}{other}"));
            }
        }
        fs::write(dir.join(path.file_name().unwrap()), text.replace('\u{1}', "")).unwrap();
    }
    fs::create_dir(dir.join("tmp")).unwrap();
}

/// A request whose connection is closed after it.
pub(super) fn get(path: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    request("GET", path, headers)
}

pub(super) fn request(method: &str, target: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut text = format!("{method} {target} HTTP/1.1\r\nHost: app.example\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("connection")) {
        text += "Connection: close\r\n";
    }
    for (name, value) in headers {
        text.extend([name, ": ", value, "\r\n"]);
    }
    (text + "\r\n").into_bytes()
}

/// An answer as it came.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    head: String,
    pub(super) body: String,
}

impl Reply {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        headers(&self.head).find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|pair| pair.1)
    }

    /// What the application was told under a name, in any spelling.
    pub(super) fn told(&self, name: &str) -> Vec<&str> {
        let same = |other: &str| other.to_lowercase().replace(['_', '.'], "-") == name;
        headers(&self.body).filter(|(other, _)| same(other)).map(|pair| pair.1).collect()
    }
}

fn headers(head: &str) -> impl Iterator<Item = (&str, &str)> {
    let lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    lines.map(|(name, value)| (name, value.trim()))
}

/// The first answer on a connection; `None` when there is none.
async fn exchange(mut stream: TcpStream, request: &[u8]) -> Option<Reply> {
    let exchange = async {
        // One that is refused early need not be read to its end.
        let _ = stream.write_all(request).await;
        read(&mut stream, request.starts_with(b"HEAD ")).await
    };
    tokio::time::timeout(Duration::from_secs(10), exchange).await.ok()?
}

/// Reads an answer, without a body after HEAD.
pub(super) async fn read(stream: &mut TcpStream, head_only: bool) -> Option<Reply> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let length = headers(&head).find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|(_, value)| value.parse::<usize>().ok());
    let mut body = bytes.split_off(end);
    let whole = |body: &Vec<u8>| {
        head_only || status == 101 || length.is_some_and(|length| body.len() >= length)
    };
    while !whole(&body) && stream.read_buf(&mut body).await.is_ok_and(|more| more > 0) {}
    Some(Reply { status, head, body: String::from_utf8_lossy(&body).into_owned() })
}
