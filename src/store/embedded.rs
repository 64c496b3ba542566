//! A Redis of our own, as a child process.
//!
//! It lives no longer than the gateway. Nothing between `fork` and `exec` may be set without
//! `unsafe`, so the gateway runs itself as [`SUBCOMMAND`], which arranges for its own death and
//! then becomes the server in [`exec_server`].

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, parent_id};
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::fs::Mode;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use xxhash_rust::xxh3::xxh3_64;

/// The hidden subcommand whose arguments are for [`exec_server`].
pub const SUBCOMMAND: &str = "embedded-redis";

/// Systems differ in how long the path of a socket may be; none allows less than 104 bytes.
const SOCKET_PATH_MAX: usize = 100;

const LOADING_MAX: Duration = Duration::from_mins(1);
const STOPPING_MAX: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);

const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A server that ran this long was sound: the next failure is a new one.
const STEADY: Duration = Duration::from_secs(10);

/// What an embedded Redis needs.
#[derive(Debug, Clone)]
pub struct EmbeddedOptions {
    /// Where it keeps its data, log and socket.
    pub state_dir: PathBuf,
    /// The server to run, instead of `valkey-server` or `redis-server` from `PATH`.
    pub binary: Option<PathBuf>,
}

/// Why there is no embedded Redis.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// No server is installed.
    #[error(
        "no Redis found{}: install one (Debian: apt-get install redis-server; \
         macOS: brew install redis), or set redis.url to a running server",
        .0.as_ref().map(|path| format!(" at {}", path.display())).unwrap_or_default()
    )]
    Missing(Option<PathBuf>),
    /// Another gateway has the lock.
    #[error("{} is in use by another gateway (pid {pid})", state_dir.display())]
    InUse {
        /// What both want.
        state_dir: PathBuf,
        /// Who has it.
        pid: String,
    },
    /// Others could reach the socket.
    #[error("{} must be a directory of our own with mode 0700", .0.display())]
    NotPrivate(PathBuf),
    /// The Redis of a killed gateway goes on.
    #[error("the Redis left over at {} does not shut down", .0.display())]
    Leftover(PathBuf),
    /// The server ended before it could be used.
    #[error("Redis did not start ({end}); {} says:\n{said}", log.display())]
    Ended {
        /// How.
        end: String,
        /// Its log.
        log: PathBuf,
        /// The last lines of it.
        said: String,
    },
    /// The server runs but is of no use yet.
    #[error("Redis does not answer after {} s; see {}", LOADING_MAX.as_secs(), .0.display())]
    Silent(PathBuf),
    /// The system refused.
    #[error("{}: {cause}", path.display())]
    Io {
        /// To do something with this.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
}

/// A running Redis, restarted when it dies and stopped when this is dropped.
#[derive(Debug)]
pub struct Embedded {
    socket: PathBuf,
    keeper: Arc<Keeper>,
    thread: Option<JoinHandle<io::Result<ExitStatus>>>,
    _lock: File,
}

impl Embedded {
    /// Starts a Redis and blocks until it can be used.
    pub fn start(options: &EmbeddedOptions) -> Result<Self, EmbeddedError> {
        let binary = match &options.binary {
            Some(path) => find(path.as_os_str()),
            None => ["valkey-server", "redis-server"].iter().find_map(|name| find(name.as_ref())),
        };
        let binary = binary.ok_or_else(|| EmbeddedError::Missing(options.binary.clone()))?;

        let dir = &options.state_dir;
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at(dir))?;
        let dir = dir.canonicalize().map_err(at(dir))?;
        let lock = lock(&dir)?;
        let socket = socket_path(&dir)?;
        clear(&socket)?;

        let log = dir.join("redis.log");
        let logged = fs::metadata(&log).map_or(0, |metadata| metadata.len());
        let keeper = Arc::new(Keeper::new(binary, arguments(&dir, &socket, &log), log.clone()));
        let thread = thread::Builder::new().name("redis-keeper".to_owned()).spawn({
            let keeper = Arc::clone(&keeper);
            move || keeper.keep()
        });
        let thread = Some(thread.map_err(at(&log))?);
        let mut embedded = Self { socket, keeper, thread, _lock: lock };

        let deadline = Instant::now() + LOADING_MAX;
        while Instant::now() < deadline {
            let pong = ask(&embedded.socket, "PING").is_ok_and(|reply| reply.starts_with("+PONG"));
            if pong && embedded.keeper.confirm() {
                return Ok(embedded);
            }
            if let Some(thread) = embedded.thread.take_if(|thread| thread.is_finished()) {
                let end = match thread.join() {
                    Ok(Ok(status)) => status.to_string(),
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => "panic".to_owned(),
                };
                let said = last_lines(&log, logged);
                return Err(EmbeddedError::Ended { end, log, said });
            }
            thread::sleep(POLL);
        }
        Err(EmbeddedError::Silent(log))
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Has it write everything down and end. Blocks, for some 10 s at the worst.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.keeper.stop();
            // A panic over there has already been reported.
            let _ = thread.join();
        }
    }
}

/// Becomes the server: `args` are the pid of the gateway, the program and its arguments.
/// Returns only if that fails.
///
/// It must be called by the thread that started the process, before there is any other.
pub fn exec_server(args: &[OsString]) -> io::Error {
    let [parent, program, args @ ..] = args else {
        return io::Error::new(ErrorKind::InvalidInput, "this is for the gateway to run");
    };
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::TERM)) {
        return error.into();
    }
    // It may have died before that took effect.
    if *parent != *parent_id().to_string() {
        return io::Error::other("the gateway that wanted a Redis is gone");
    }
    // The state directory may have been made by someone who lets others read it.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    Command::new(program).args(args).exec()
}

/// What keeps the server running. The system ends the server together with the thread that
/// started it, so all of it is done by one thread.
#[derive(Debug)]
struct Keeper {
    binary: PathBuf,
    arguments: Vec<OsString>,
    log: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Ours until it is waited for, which takes the lock: no other process can have this pid.
    child: Option<Pid>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting,
    Up,
    Stopping,
}

impl Keeper {
    fn new(binary: PathBuf, arguments: Vec<OsString>, log: PathBuf) -> Self {
        let state = Mutex::new(State { phase: Phase::Starting, child: None });
        Self { binary, arguments, log, state, changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the server is started again when it ends. False if it already has.
    fn confirm(&self) -> bool {
        let mut state = self.lock();
        if state.phase == Phase::Starting {
            state.phase = Phase::Up;
        }
        state.phase == Phase::Up
    }

    /// Runs the server until [`Self::stop`], or until it fails to start at all.
    fn keep(&self) -> io::Result<ExitStatus> {
        let mut backoff = BACKOFF_MIN;
        let mut state = self.lock();
        loop {
            let started = Instant::now();
            let end = match self.spawn() {
                Ok(mut child) => {
                    let pid = Pid::from_child(&child);
                    state.child = Some(pid);
                    drop(state);
                    await_end(pid);
                    state = self.lock();
                    state.child = None;
                    self.changed.notify_all();
                    child.wait()
                }
                Err(error) => Err(error),
            };
            if state.phase != Phase::Up {
                state.phase = Phase::Stopping;
                return end;
            }
            if started.elapsed() >= STEADY {
                backoff = BACKOFF_MIN;
            }
            tracing::warn!(?end, ?backoff, log = %self.log.display(), "Redis ended: restarting it");
            state = self
                .changed
                .wait_timeout_while(state, backoff, |state| state.phase == Phase::Up)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            if state.phase != Phase::Up {
                return end;
            }
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    fn spawn(&self) -> io::Result<Child> {
        // On Linux this is our program even when another has been installed in its place.
        let own = if cfg!(target_os = "linux") {
            PathBuf::from("/proc/self/exe")
        } else {
            env::current_exe()?
        };
        let log = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.log)?;
        Command::new(own)
            .arg(SUBCOMMAND)
            .arg(process::id().to_string())
            .arg(&self.binary)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C is for the gateway, which ends the server last.
            .process_group(0)
            .spawn()
    }

    fn stop(&self) {
        let mut state = self.lock();
        state.phase = Phase::Stopping;
        self.changed.notify_all();
        signal(state.child, Signal::TERM);
        let state = self
            .changed
            .wait_timeout_while(state, STOPPING_MAX, |state| state.child.is_some())
            .unwrap_or_else(PoisonError::into_inner)
            .0;
        signal(state.child, Signal::KILL);
    }
}

fn signal(pid: Option<Pid>, signal: Signal) {
    if let Some(pid) = pid {
        // It fails only for a process that has ended.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Waits until a child has ended, and leaves it to be waited for.
fn await_end(pid: Pid) {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    // It fails only for what is no child, and then there is nothing to wait for.
    let _ = rustix::io::retry_on_intr(|| rustix::process::waitid(WaitId::Pid(pid), options));
}

fn at(path: &Path) -> impl Fn(io::Error) -> EmbeddedError {
    move |cause| EmbeddedError::Io { path: path.to_owned(), cause }
}

/// The program of that name, as a shell would find it.
fn find(name: &OsStr) -> Option<PathBuf> {
    let is_path = name.as_bytes().contains(&b'/');
    let directories = if is_path { OsString::new() } else { env::var_os("PATH")? };
    env::split_paths(&directories).map(|directory| directory.join(name)).find(|path| {
        fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.mode() & 0o111 != 0)
    })
}

/// Keeps other gateways out for as long as the file is open.
fn lock(dir: &Path) -> Result<File, EmbeddedError> {
    let path = dir.join("lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(at(&path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            file.read_to_string(&mut pid).map_err(at(&path))?;
            return Err(EmbeddedError::InUse { state_dir: dir.to_owned(), pid });
        }
        Err(TryLockError::Error(cause)) => return Err(at(&path)(cause)),
    }
    file.set_len(0).and_then(|()| write!(file, "{}", process::id())).map_err(at(&path))?;
    Ok(file)
}

/// In `dir`, or where the path of a socket is short enough.
fn socket_path(dir: &Path) -> Result<PathBuf, EmbeddedError> {
    let name = "redis.sock";
    let socket = dir.join(name);
    if socket.as_os_str().len() <= SOCKET_PATH_MAX {
        return Ok(socket);
    }
    let hash = xxh3_64(dir.as_os_str().as_bytes());
    let short = env::temp_dir().join(format!("gatehouse-{hash:016x}"));
    match DirBuilder::new().mode(0o700).create(&short) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(at(&short)(error)),
        _ => {}
    }
    // Anyone can write there, so what exists need not be ours.
    let metadata = fs::symlink_metadata(&short).map_err(at(&short))?;
    let ours = metadata.uid() == rustix::process::geteuid().as_raw();
    if metadata.is_dir() && ours && metadata.mode() & 0o777 == 0o700 {
        Ok(short.join(name))
    } else {
        Err(EmbeddedError::NotPrivate(short))
    }
}

/// Ends what still listens there. We have the lock, so it was left over by a killed gateway.
fn clear(socket: &Path) -> Result<(), EmbeddedError> {
    let deadline = Instant::now() + STOPPING_MAX;
    let mut refused = false;
    while Instant::now() < deadline {
        match ask(socket, "SHUTDOWN").map_err(|error| error.kind()) {
            Err(ErrorKind::NotFound) => return Ok(()),
            // The first time it may be about to remove the socket itself.
            Err(ErrorKind::ConnectionRefused) if refused => {
                return fs::remove_file(socket).map_err(at(socket));
            }
            Err(ErrorKind::ConnectionRefused) => refused = true,
            _ => tracing::warn!(socket = %socket.display(), "shutting down a leftover Redis"),
        }
        thread::sleep(POLL);
    }
    Err(EmbeddedError::Leftover(socket.to_owned()))
}

/// Sends a command without arguments and reads the first line of the reply.
fn ask(socket: &Path, command: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    write!(stream, "*1\r\n${}\r\n{command}\r\n", command.len())?;
    let mut reply = String::new();
    BufReader::new(stream.take(512)).read_line(&mut reply)?;
    Ok(reply)
}

fn arguments(dir: &Path, socket: &Path, log: &Path) -> Vec<OsString> {
    let arguments: [(&str, &OsStr); _] = [
        ("--port", "0".as_ref()),
        ("--protected-mode", "yes".as_ref()),
        ("--unixsocket", socket.as_ref()),
        ("--unixsocketperm", "700".as_ref()),
        ("--dir", dir.as_ref()),
        ("--logfile", log.as_ref()),
        ("--loglevel", "notice".as_ref()),
        ("--daemonize", "no".as_ref()),
        ("--appendonly", "yes".as_ref()),
        ("--appendfsync", "everysec".as_ref()),
        ("--aof-load-truncated", "yes".as_ref()),
        ("--save", "".as_ref()),
        ("--maxmemory-policy", "noeviction".as_ref()),
    ];
    arguments.into_iter().flat_map(|(name, value)| [name.into(), value.into()]).collect()
}

/// The last lines of what the log got since it was `from` bytes long.
fn last_lines(log: &Path, from: u64) -> String {
    let log = fs::read(log).unwrap_or_default();
    let new = usize::try_from(from).ok().and_then(|from| log.get(from..)).unwrap_or_default();
    let text = String::from_utf8_lossy(new);
    let lines: Vec<_> = text.lines().rev().take(5).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}
