//! Two ways to ask: as fast as answers come, and at a fixed rate.

use std::fmt::Write as _;
use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroU64;
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use hdrhistogram::Histogram;

use crate::processes::Process;

const CLOSED_CONNECTIONS: u32 = 64;
const OPEN_CONNECTIONS: u32 = 32;
/// How far behind its schedule a fixed rate may fall before it is given up.
const LAG: Duration = Duration::from_secs(1);

/// A connection that stays open, with one request at a time.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Connection {
    pub fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    pub fn ask(&mut self, request: &[u8]) -> Result<Answer> {
        self.stream.write_all(request)?;
        let head = loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break self.take(0..end + 4)?;
            }
            self.read()?;
        };
        let status = head.split(' ').nth(1).and_then(|text| text.parse().ok());
        let length = match header(&head, "content-length") {
            Some(text) => text.parse()?,
            None if status == Some(204) => 0,
            None => bail!("an answer without a length: {head}"),
        };
        while self.buffer.len() < length {
            self.read()?;
        }
        let body = self.take(0..length)?;
        Ok(Answer { status: status.context("not HTTP")?, head, body })
    }

    fn take(&mut self, range: Range<usize>) -> Result<String> {
        Ok(String::from_utf8(self.buffer.drain(range).collect())?)
    }

    fn read(&mut self) -> Result<()> {
        let mut chunk = [0; 4096];
        let length = match self.stream.read(&mut chunk) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            other => other?,
        };
        ensure!(length > 0, "the connection was closed");
        self.buffer.extend_from_slice(&chunk[..length]);
        Ok(())
    }
}

/// The value of a header, whose name is given in lower case.
pub fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// A connection for each of these, driven by a thread of its own.
pub fn lanes<S: Send, T: Send>(
    address: SocketAddr,
    lanes: impl IntoIterator<Item = S>,
    work: impl Fn(S, Connection) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let connect = |lane| Ok((lane, Connection::open(address)?));
    let connections = lanes.into_iter().map(connect).collect::<Result<Vec<_>>>()?;
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> = connections
            .into_iter()
            .map(|(lane, connection)| scope.spawn(move || work(lane, connection)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a lane panicked"))?)
            .collect()
    })
}

/// What was answered, and in which time.
pub struct Closed {
    pub answers: u64,
    pub elapsed: Duration,
}

impl Closed {
    /// Answers a second.
    pub fn rate(&self) -> f64 {
        self.answers as f64 / self.elapsed.as_secs_f64()
    }
}

/// Every connection asks again as soon as it has an answer, with these requests in turn.
pub fn closed(
    address: SocketAddr,
    requests: &[String],
    seconds: u32,
    dir: &Path,
) -> Result<Closed> {
    Wrk::start(address, requests, CLOSED_CONNECTIONS, seconds, dir)?.finish()
}

/// wrk, while it asks.
pub struct Wrk(Process);

impl Wrk {
    pub fn start(
        address: SocketAddr,
        requests: &[String],
        connections: u32,
        seconds: u32,
        dir: &Path,
    ) -> Result<Self> {
        let script = dir.join(format!("wrk-{}.lua", address.port()));
        fs::write(&script, lua(requests)?)?;
        let mut command = Command::new("wrk");
        command
            .args(["-t1", &format!("-c{connections}"), &format!("-d{seconds}s"), "-s"])
            .arg(&script)
            .arg(format!("http://{address}"));
        Ok(Self(Process::start(&command, script.with_extension("log"))?))
    }

    /// Ends it before its time.
    pub fn stop(self) -> Result<Closed> {
        self.0.interrupt()?;
        self.finish()
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Result<Closed> {
        self.0.wait()?;
        let text = self.0.log();
        let sums = || -> Option<[u64; 3]> {
            let line = text.lines().find_map(|line| line.strip_prefix("sums "))?;
            let numbers: Vec<u64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
            numbers.try_into().ok()
        };
        let [answers, micros, errors] = sums().with_context(|| format!("wrk failed: {text}"))?;
        let clean = errors == 0 && answers > 0 && !text.contains("Non-2xx");
        ensure!(clean, "not all were 200: {text}");
        Ok(Closed { answers, elapsed: Duration::from_micros(micros) })
    }
}

/// What wrk sends is built beforehand, so that it costs wrk the same for everybody.
fn lua(requests: &[String]) -> Result<String> {
    let mut script = "local requests = {\n".to_owned();
    for request in requests {
        ensure!(request.is_ascii(), "a request that Lua would read differently");
        // What Rust escapes in ASCII that is printable or ends a line, Lua escapes alike.
        writeln!(script, "  {request:?},")?;
    }
    script.push_str(
        "}\nlocal last = 0\n\
         function request()\n  \
           last = last % #requests + 1\n  \
           return requests[last]\n\
         end\n\
         function done(summary)\n  \
           local errors = summary.errors\n  \
           local sum = errors.connect + errors.read + errors.write + errors.status + errors.timeout\n  \
           io.write(string.format(\"sums %d %d %d\\n\", summary.requests, summary.duration, sum))\n\
         end\n",
    );
    Ok(script)
}

/// The latencies at a fixed rate.
pub struct Open {
    /// What was answered a second: less than the rate when it was too much.
    pub rate: f64,
    /// Milliseconds at the median, 99 % and 99.9 %.
    pub latency: [f64; 3],
}

/// Requests are sent at fixed times, and an answer's latency counts from when its request was due:
/// one that had to wait for a slow one before it is slow too.
///
/// A thread a connection, because tokio's timers are too coarse by a millisecond.
pub fn open(address: SocketAddr, requests: &[String], rate: u32, seconds: u32) -> Result<Open> {
    let schedule = Schedule {
        start: Instant::now() + Duration::from_millis(100),
        rate: u64::from(rate),
        total: u64::from(rate) * u64::from(seconds),
    };
    let mut latency = Histogram::<u64>::new(3)?;
    for lane in lanes(address, 0..OPEN_CONNECTIONS, |lane, connection| {
        schedule.drive(lane, connection, requests)
    })? {
        latency.add(lane)?;
    }
    let elapsed = schedule.start.elapsed().max(schedule.due(schedule.total) - schedule.start);
    Ok(Open {
        rate: latency.len() as f64 / elapsed.as_secs_f64(),
        latency: [0.5, 0.99, 0.999].map(|q| latency.value_at_quantile(q) as f64 / 1e6),
    })
}

#[derive(Clone, Copy)]
struct Schedule {
    start: Instant,
    rate: u64,
    total: u64,
}

impl Schedule {
    fn due(self, number: u64) -> Instant {
        self.start + Duration::from_nanos(number * 1_000_000_000 / self.rate)
    }

    /// The requests of one connection.
    fn drive(
        self,
        lane: u32,
        mut connection: Connection,
        requests: &[String],
    ) -> Result<Histogram<u64>> {
        // Otherwise the kernel may let every sleep last 50 µs longer.
        rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
        let mut latency = Histogram::new(3)?;
        let own =
            (u64::from(lane)..self.total).zip(requests.iter().cycle().skip(usize::try_from(lane)?));
        for (number, request) in own.step_by(usize::try_from(OPEN_CONNECTIONS)?) {
            let due = self.due(number);
            let now = Instant::now();
            if now > due + LAG {
                break;
            }
            thread::sleep(due - now);
            let answer = connection.ask(request.as_bytes())?;
            ensure!(answer.status == 200, "answered {}", answer.head);
            latency.record(u64::try_from(due.elapsed().as_nanos())?)?;
        }
        Ok(latency)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lua_has_the_same_bytes() {
        let script = lua(&["GET / HTTP/1.1\r\nA: \"b\\c\"\r\n\r\n".to_owned()]).expect("ASCII");
        let line = r#"  "GET / HTTP/1.1\r\nA: \"b\\c\"\r\n\r\n","#;
        assert_eq!(script.lines().nth(1), Some(line));
    }

    #[test]
    fn a_header_is_found_in_any_case() {
        let head = "HTTP/1.1 200 OK\r\nRemote-User: ann\r\n\r\n";
        assert_eq!(header(head, "remote-user"), Some("ann"));
        assert_eq!(header(head, "remote-name"), None);
    }
}
