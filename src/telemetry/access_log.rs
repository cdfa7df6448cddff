//! The access log: one line a request on standard output, never in the request's way.
//!
//! A line is formatted into a buffer of the calling thread. A full buffer goes through a bounded channel to one writer
//! thread; when that does not keep up, whole buffers are dropped and their lines counted, so that a blocked standard
//! output costs lines and never time. Threads that record must call [`flush_current_thread`] now and then (about once a
//! second), else the last lines of a quiet thread wait; a thread that ends flushes by itself.

mod format;

use std::{
    cell::RefCell,
    fmt,
    io::{self, Write},
    mem,
    net::IpAddr,
    str::FromStr,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{self, Receiver, SyncSender},
    },
    thread,
    time::{Duration, SystemTime},
};

use super::metrics::Process;

/// A thread's buffer goes to the writer when it holds this many bytes.
const BUFFER_BYTES: usize = 16 * 1024;

/// Buffers that may wait for the writer: about 4 MiB.
const WAITING: usize = 256;

/// How requests are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Not at all.
    Off,
    /// The combined format with our own fields after it.
    Text,
    /// One JSON object a line.
    Json,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

impl FromStr for Format {
    type Err = &'static str;

    /// Reads `off`, `text` or `json`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "off" => Ok(Self::Off),
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("expected off, text or json"),
        }
    }
}

/// What is known of a request when it has ended. Bytes that come from outside may hold anything; they are escaped.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    /// When its head arrived.
    pub time: SystemTime,
    /// `X-Request-ID`.
    pub request_id: &'a str,
    /// The client, behind trusted proxies.
    pub client: IpAddr,
    /// Method.
    pub method: &'a str,
    /// Host in its normal form; empty when the request had none.
    pub host: &'a [u8],
    /// Path and query as they were received.
    pub path: &'a [u8],
    /// `HTTP/1.1` and so on.
    pub protocol: &'a str,
    /// Status sent to the client; 499 when it left before.
    pub status: u16,
    /// One word why we answered by ourselves or cut the response; None when the response is the backend's.
    pub reason: Option<&'a str>,
    /// Response body bytes.
    pub bytes_sent: u64,
    /// Request body bytes.
    pub bytes_received: u64,
    /// Head received to response ended.
    pub duration: Duration,
    /// Endpoint of the last attempt.
    pub upstream: Option<&'a dyn fmt::Display>,
    /// Tries made.
    pub attempts: u32,
    /// `namespace/name` of the object whose route took the request; empty for none.
    pub ingress: (&'a str, &'a str),
    /// Service the request went to; empty for none.
    pub service: &'a str,
    /// `User-Agent`.
    pub user_agent: Option<&'a [u8]>,
    /// `Referer`.
    pub referer: Option<&'a [u8]>,
}

/// Takes the lines of all threads. Clones write to the same output.
#[derive(Clone, Debug)]
pub struct AccessLog(Option<Output>);

#[derive(Clone, Debug)]
struct Output {
    format: Format,
    writer: SyncSender<Message>,
    process: Arc<Process>,
}

enum Message {
    Lines(Vec<u8>),
    /// Everything before this is written: tell so.
    Flush(SyncSender<()>),
}

thread_local! {
    static BUFFER: RefCell<Buffer> = const { RefCell::new(Buffer { bytes: Vec::new(), lines: 0, output: None }) };
}

struct Buffer {
    bytes: Vec<u8>,
    lines: u64,
    /// Where the bytes are to go.
    output: Option<Output>,
}

impl AccessLog {
    /// Logs nothing.
    pub fn off() -> Self {
        Self(None)
    }

    /// Logs to standard output in `format`; dropped lines are counted in `process`.
    ///
    /// # Errors
    /// When the writer thread cannot be started.
    pub fn start(format: Format, process: Arc<Process>) -> io::Result<Self> {
        Self::start_on(format, process, io::stdout())
    }

    fn start_on(format: Format, process: Arc<Process>, output: impl Write + Send + 'static) -> io::Result<Self> {
        if format == Format::Off {
            return Ok(Self::off());
        }
        let (writer, messages) = mpsc::sync_channel(WAITING);
        thread::Builder::new().name("access-log".into()).spawn(move || write_all(&messages, output))?;
        Ok(Self(Some(Output { format, writer, process })))
    }

    /// Whether lines go anywhere: what only the log needs can be left out otherwise.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Logs one request. Never waits.
    pub fn record(&self, record: &Record<'_>) {
        let Some(output) = &self.0 else { return };
        BUFFER.with_borrow_mut(|buffer| {
            buffer.turn_to(output);
            match output.format {
                Format::Off => {}
                Format::Text => format::text(record, &mut buffer.bytes),
                Format::Json => format::json(record, &mut buffer.bytes),
            }
            buffer.lines += 1;
            if buffer.bytes.len() >= BUFFER_BYTES {
                buffer.flush();
            }
        });
    }

    /// Waits until everything flushed before is written, but at most for `patience`: call it before the process ends.
    pub fn finish(&self, patience: Duration) {
        let Some(output) = &self.0 else { return };
        flush_current_thread();
        let (done, written) = mpsc::sync_channel(1);
        if output.writer.try_send(Message::Flush(done)).is_ok() {
            let _late = written.recv_timeout(patience);
        }
    }
}

/// Hands what the calling thread has buffered to the writer. Never waits.
pub fn flush_current_thread() {
    BUFFER.with_borrow_mut(Buffer::flush);
}

impl Buffer {
    /// Makes `output` the one that the buffer is for.
    fn turn_to(&mut self, output: &Output) {
        let same = self.output.as_ref().is_some_and(|held| Arc::ptr_eq(&held.process, &output.process));
        if !same {
            self.flush();
            self.output = Some(output.clone());
        }
        if self.bytes.capacity() == 0 {
            self.bytes.reserve(BUFFER_BYTES + BUFFER_BYTES / 4);
        }
    }

    fn flush(&mut self) {
        if self.bytes.is_empty() {
            return;
        }
        let (bytes, lines) = (mem::take(&mut self.bytes), mem::take(&mut self.lines));
        if let Some(output) = &self.output
            && output.writer.try_send(Message::Lines(bytes)).is_err()
        {
            output.process.access_log_dropped.fetch_add(lines, Ordering::Relaxed);
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.flush();
    }
}

/// The writer thread: ends when every `AccessLog` is gone. An output that fails loses lines, not the process.
fn write_all(messages: &Receiver<Message>, mut output: impl Write) {
    while let Ok(message) = messages.recv() {
        match message {
            Message::Lines(lines) => drop(output.write_all(&lines).and_then(|()| output.flush())),
            Message::Flush(done) => drop(done.try_send(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, sync::Mutex};

    use super::*;

    pub(super) fn record() -> Record<'static> {
        Record {
            time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
            request_id: "id-1",
            client: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
            method: "GET",
            host: b"a.example",
            path: b"/x?q=1",
            protocol: "HTTP/1.1",
            status: 200,
            reason: None,
            bytes_sent: 5,
            bytes_received: 0,
            duration: Duration::from_micros(1500),
            upstream: Some(&"10.0.0.1:80"),
            attempts: 1,
            ingress: ("shop", "front"),
            service: "cart",
            user_agent: Some(b"curl/8"),
            referer: None,
        }
    }

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_of_all_threads_are_written_by_finish() {
        let memory = Memory::default();
        let log = AccessLog::start_on(Format::Json, Arc::default(), memory.clone()).unwrap();
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let log = log.clone();
                thread::spawn(move || (0..100).for_each(|_| log.record(&record())))
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        log.record(&record());
        log.finish(Duration::from_secs(10));
        let written = String::from_utf8(memory.0.lock().unwrap().clone()).unwrap();
        assert_eq!(written.lines().count(), 401);
        for line in written.lines() {
            serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
    }

    /// Standard output that nobody reads.
    struct Blocked(mpsc::Receiver<()>);

    impl Write for Blocked {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ends_with_the_test = self.0.recv();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_blocked_output_costs_lines_and_no_time() {
        let (_unblock, blocked) = mpsc::channel();
        let process = Arc::new(Process::default());
        let log = AccessLog::start_on(Format::Text, Arc::clone(&process), Blocked(blocked)).unwrap();
        let mut lines = 0_u64;
        while process.access_log_dropped.load(Ordering::Relaxed) == 0 {
            log.record(&record());
            lines += 1;
            assert!(lines < 1_000_000, "the channel has no bound");
        }
        log.finish(Duration::ZERO);
    }

    #[test]
    fn off_records_nothing() {
        let log = AccessLog::start(Format::Off, Arc::default()).unwrap();
        assert!(!log.is_on());
        log.record(&record());
        log.finish(Duration::ZERO);
    }
}
