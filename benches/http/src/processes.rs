//! The processes that are compared: started, asked what they have used, and ended.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::load::Connection;

/// What backends present to the gateway, and its hash, as its configuration has it.
pub const SERVICE_KEY: &str = "ghk_compare";
const SERVICE_KEY_SHA256: &str = "73a75b48a0e6e9b16b2dcad1e74f42f32a5f554df046ac61b155ea37d3de3a0d";

const START_LIMIT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(2);

/// A child process that ends with its owner. What it says goes to a file.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    pub fn start(command: &Command, log: PathBuf) -> Result<Self> {
        let file = File::create(&log)?;
        // Nothing is dropped when the owner is killed.
        let mut bound = Command::new("setpriv");
        bound.args(["--pdeathsig", "KILL"]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => bound.env(name, value),
                None => bound.env_remove(name),
            };
        }
        if let Some(dir) = command.get_current_dir() {
            bound.current_dir(dir);
        }
        let child = bound
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .context("setpriv does not start")?;
        Ok(Self { child, log })
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Asks it to end.
    pub fn interrupt(&self) -> Result<()> {
        let id = rustix::process::Pid::from_child(&self.child);
        Ok(rustix::process::kill_process(id, rustix::process::Signal::INT)?)
    }

    /// Waits until it ends.
    pub fn wait(&mut self) -> Result<()> {
        self.child.wait()?;
        Ok(())
    }

    /// Tries until there is something, and fails when the process has ended or takes too long.
    fn until<T>(&mut self, mut attempt: impl FnMut(&Self) -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if let Some(found) = attempt(self) {
                return Ok(found);
            }
            if self.child.try_wait()?.is_some() || Instant::now() > deadline {
                bail!("not ready: {}", self.log());
            }
            thread::sleep(POLL);
        }
    }

    /// Time on a processor since it began, of all its threads.
    pub fn cpu(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let ticks = ticks(&stat).context("/proc/PID/stat is not understood")?;
        Ok(Duration::from_secs(ticks) / u32::try_from(rustix::param::clock_ticks_per_second())?)
    }

    /// The memory that it occupies, in bytes.
    fn rss(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let kib = status.lines().find_map(|line| {
            line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok()
        });
        Ok(kib.context("/proc/PID/status is not understood")? * 1024)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `utime` and `stime` together. They stand 12th and 13th after the name, which may contain
/// anything.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

/// Something that answers HTTP.
pub struct Server {
    process: Process,
    pub address: SocketAddr,
    /// For Envoy over gRPC; the same as `address` where there is none.
    pub grpc: SocketAddr,
    pub is_gateway: bool,
    /// From its start until it could be used.
    pub started: Duration,
}

impl Server {
    /// A gateway over the Redis at this URL. Those in one directory share their keys.
    pub fn gateway(program: &Path, redis: &str, dir: &Path, name: &str) -> Result<Self> {
        let config = dir.join("gatehouse.toml");
        fs::write(
            &config,
            format!(
                "[server]\nlisten = '127.0.0.1:0'\nops_listen = '127.0.0.1:0'\n\
                 grpc_listen = '127.0.0.1:0'\n\
                 trusted_proxies = ['127.0.0.1']\n\
                 [redis]\nurl = '{redis}'\n\
                 [tokens]\nkeys_dir = '{}/keys'\naccess_ttl = '1h'\n\
                 [log]\nformat = 'json'\n\
                 [[login.service_keys]]\nname = 'compare'\nsha256 = '{SERVICE_KEY_SHA256}'\n\
                 scopes = ['sessions:create', 'sessions:revoke']\n",
                dir.display(),
            ),
        )?;
        let mut command = Command::new(program);
        command.arg("serve").arg("--config").arg(&config).env_remove("RUST_LOG");
        let start = Instant::now();
        let mut process = Process::start(&command, dir.join(name))?;
        let (address, grpc, operations) = process.until(|process| {
            process.log().lines().find_map(|line| {
                let line: Value = serde_json::from_str(line).ok()?;
                let address = |key: &str| line[key].as_str()?.parse::<SocketAddr>().ok();
                Some((address("listen")?, address("grpc_listen")?, address("ops_listen")?))
            })
        })?;
        process.until(|_| {
            let question = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n";
            let answer = Connection::open(operations).ok()?.ask(question).ok()?;
            (answer.status == 200).then_some(())
        })?;
        Ok(Self { process, address, grpc, is_gateway: true, started: start.elapsed() })
    }

    /// A rival: it takes `--listen` and `--redis`, and says where it listens.
    pub fn rival(command: &mut Command, redis: &Redis, log: PathBuf) -> Result<Self> {
        command.args(["--listen", "127.0.0.1:0", "--redis"]).arg(&redis.socket);
        let start = Instant::now();
        let mut process = Process::start(command, log)?;
        let address = process.until(|process| {
            let log = process.log();
            // A line that is not complete may be half an address.
            let (lines, _) = log.rsplit_once('\n')?;
            lines.lines().find_map(|line| line.strip_prefix("listening ")?.parse().ok())
        })?;
        Ok(Self { process, address, grpc: address, is_gateway: false, started: start.elapsed() })
    }

    pub fn cpu(&self) -> Result<Duration> {
        self.process.cpu()
    }

    pub fn rss(&self) -> Result<u64> {
        self.process.rss()
    }
}

/// Node with this program, whose packages are installed where they are missing.
pub fn node(program: &Path) -> Result<Command> {
    let dir = program.parent().context("the program is in a directory")?;
    if !dir.join("node_modules").exists() {
        let status = Command::new("npm")
            .args(["ci", "--no-audit", "--no-fund"])
            .current_dir(dir)
            .status()
            .context("npm does not start")?;
        ensure!(status.success(), "npm ci failed");
    }
    let mut command = Command::new("node");
    command.arg(program).env("NODE_ENV", "production");
    Ok(command)
}

/// A Redis server on a unix socket, with an append-only file.
pub struct Redis {
    process: Process,
    socket: PathBuf,
}

/// What Redis has done since it began.
#[derive(Clone, Copy)]
pub struct RedisUsage {
    pub cpu: Duration,
    /// Also those that scripts run.
    pub commands: u64,
    pub scripts: u64,
}

impl Redis {
    /// Beside its socket it listens on a port, if that is not 0.
    pub fn start(dir: &Path, port: u16, options: &[&str]) -> Result<Self> {
        let mut command = Command::new("redis-server");
        command
            .current_dir(dir)
            .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--unixsocket", "r.sock"])
            .args(["--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction"])
            .args(options);
        let process = Process::start(&command, dir.join("redis.log"))?;
        let mut redis = Self { process, socket: dir.join("r.sock") };
        let socket = redis.socket.clone();
        redis.process.until(|_| UnixStream::connect(&socket).ok())?;
        Ok(redis)
    }

    /// How a gateway finds it.
    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.socket.display())
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub fn cpu(&self) -> Result<Duration> {
        self.process.cpu()
    }

    pub fn usage(&self) -> Result<RedisUsage> {
        let info = self.ask("INFO all")?;
        Ok(RedisUsage {
            cpu: self.process.cpu()?,
            commands: number(&info, "total_commands_processed:")?,
            // Not there until the first.
            scripts: number(&info, "cmdstat_evalsha:calls=").unwrap_or(0),
        })
    }

    /// A number that INFO has by this name.
    pub fn info(&self, name: &str) -> Result<u64> {
        number(&self.ask("INFO all")?, &format!("{name}:"))
    }

    /// What it answers to a command without arguments that need quotes.
    pub fn ask(&self, command: &str) -> Result<String> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.write_all(format!("{command}\r\n").as_bytes())?;
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end();
        ensure!(!line.starts_with('-'), "{command} is refused: {line}");
        let Some(length) = line.strip_prefix('$') else {
            return Ok(line.get(1..).unwrap_or_default().to_owned());
        };
        let mut text = vec![0; length.parse()?];
        reader.read_exact(&mut text)?;
        Ok(String::from_utf8(text)?)
    }
}

fn number(info: &str, prefix: &str) -> Result<u64> {
    let rest = info.lines().find_map(|line| line.strip_prefix(prefix));
    let number = rest.and_then(|rest| rest.split(',').next()?.parse().ok());
    number.with_context(|| format!("INFO without {prefix}"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn ticks_are_counted_behind_any_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 30 12 0 0 20 0 3 0 99 1 1";
        assert_eq!(super::ticks(stat), Some(42));
    }
}
