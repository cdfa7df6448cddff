//! The access log: one line a request on standard output, never in the request's way.
//!
//! A line is formatted into a buffer of the calling thread. A full buffer goes through a bounded channel to one writer
//! thread; when that does not keep up, whole buffers are dropped and their lines counted, so that a blocked standard
//! output costs lines and never time. Threads that record must call [`flush_current_thread`] now and then (about once a
//! second), else the last lines of a quiet thread wait; a thread that ends flushes by itself.

mod fields;
mod format;
mod layout;

use std::{
    cell::RefCell,
    fmt,
    fs::File,
    io::{self, Write},
    mem,
    os::fd::AsFd as _,
    str::FromStr,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{self, Receiver, SyncSender, TrySendError},
    },
    thread,
    time::{Duration, Instant},
};

pub use self::{
    fields::{FIELDS, Field, Record},
    layout::{Error, Layout},
};
use super::metrics::Process;

/// A thread's buffer goes to the writer when it holds this many bytes.
const BUFFER_BYTES: usize = 16 * 1024;

/// Buffers that may wait for the writer: about 4 MiB.
const WAITING: usize = 256;

/// How often the end of the process looks for room among them.
const ROOM: Duration = Duration::from_millis(1);

/// How requests are logged, as a flag says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Not at all.
    Off,
    /// The combined format with our own fields after it.
    Text,
    /// One JSON object of every field a line.
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

/// What is logged of which requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// How a line looks; None for no log.
    pub layout: Option<Layout>,
    /// Share of requests that are logged, 0 to 1. Those that end in an error of the server always are.
    pub sample: f64,
}

/// Takes the lines of all threads. Clones write to the same output.
#[derive(Clone, Debug)]
pub struct AccessLog(Option<Output>);

#[derive(Clone, Debug)]
struct Output {
    layout: Arc<Layout>,
    sample: f64,
    writer: SyncSender<Message>,
    process: Arc<Process>,
}

enum Message {
    /// Whole lines, and how many.
    Lines(Vec<u8>, u64),
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

    /// Logs to standard output; dropped lines are counted in `process`.
    ///
    /// # Errors
    /// When standard output cannot be had, or the writer thread not be started.
    pub fn start(settings: Settings, process: Arc<Process>) -> io::Result<Self> {
        // Not through the buffer of the standard library, which would keep what could not be written.
        Self::start_on(settings, process, File::from(io::stdout().as_fd().try_clone_to_owned()?))
    }

    fn start_on(settings: Settings, process: Arc<Process>, output: impl Write + Send + 'static) -> io::Result<Self> {
        let Some(layout) = settings.layout.map(Arc::new) else { return Ok(Self::off()) };
        let (writer, messages) = mpsc::sync_channel(WAITING);
        let counted = Arc::clone(&process);
        let write = move || write_all(&messages, &counted, output);
        thread::Builder::new().name("access-log".into()).spawn(write)?;
        Ok(Self(Some(Output { layout, sample: settings.sample, writer, process })))
    }

    /// How a line looks, if there is any: what only the log needs can be left out otherwise.
    pub fn layout(&self) -> Option<&Layout> {
        self.0.as_ref().map(|output| &*output.layout)
    }

    /// Logs one request, if it is drawn. Never waits.
    pub fn record(&self, record: &Record<'_>) {
        let Some(output) = &self.0 else { return };
        if output.sample < 1.0 && !record.server_error && fastrand::f64() >= output.sample {
            return;
        }
        BUFFER.with_borrow_mut(|buffer| {
            buffer.turn_to(output);
            output.layout.write(record, &mut buffer.bytes);
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
        let deadline = Instant::now() + patience;
        let (done, written) = mpsc::sync_channel(1);
        let mut message = Message::Flush(done);
        while let Err(TrySendError::Full(back)) = output.writer.try_send(message) {
            if Instant::now() >= deadline {
                return;
            }
            message = back;
            thread::sleep(ROOM);
        }
        let _late = written.recv_timeout(deadline.saturating_duration_since(Instant::now()));
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
            && output.writer.try_send(Message::Lines(bytes, lines)).is_err()
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
fn write_all(messages: &Receiver<Message>, process: &Process, mut output: impl Write) {
    while let Ok(message) = messages.recv() {
        match message {
            Message::Lines(bytes, lines) => {
                if output.write_all(&bytes).is_err() {
                    process.access_log_dropped.fetch_add(lines, Ordering::Relaxed);
                }
            }
            Message::Flush(done) => drop(done.try_send(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{IpAddr, Ipv4Addr},
        sync::Mutex,
        time::SystemTime,
    };

    use http::HeaderValue;

    use super::*;

    pub(super) fn record() -> Record<'static> {
        static HEADERS: [Option<HeaderValue>; 2] = [Some(HeaderValue::from_static("curl/8")), None];
        Record {
            time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
            request_id: "id-1",
            client: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
            peer: (Ipv4Addr::new(192, 0, 2, 7), 51000).into(),
            local: (Ipv4Addr::new(10, 0, 0, 4), 8080).into(),
            method: "GET",
            scheme: "http",
            host: b"a.example",
            path: b"/x",
            query: Some(b"q=1"),
            protocol: "HTTP/1.1",
            tls_version: None,
            sni: None,
            status: 200,
            reason: None,
            server_error: false,
            bytes_sent: 5,
            bytes_received: 0,
            duration: Duration::from_micros(1500),
            response_time: None,
            upstream: Some(&"10.0.0.1:80"),
            attempts: 1,
            retries: &["reset", "hedge"],
            namespace: "shop",
            ingress: "front",
            route: Some("/x"),
            service: "cart",
            trace: None,
            request_headers: &HEADERS,
            response_headers: &[],
        }
    }

    fn all(layout: Layout) -> Settings {
        Settings { layout: Some(layout), sample: 1.0 }
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
        let log = AccessLog::start_on(all(Layout::json()), Arc::default(), memory.clone()).unwrap();
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
        let log = AccessLog::start_on(all(Layout::text()), Arc::clone(&process), Blocked(blocked)).unwrap();
        let mut lines = 0_u64;
        while process.access_log_dropped.load(Ordering::Relaxed) == 0 {
            log.record(&record());
            lines += 1;
            assert!(lines < 1_000_000, "the channel has no bound");
        }
        log.finish(Duration::ZERO);
    }

    #[test]
    fn finish_waits_for_room_when_the_channel_is_full() {
        let (unblock, blocked) = mpsc::channel();
        let process = Arc::new(Process::default());
        let log = AccessLog::start_on(all(Layout::text()), Arc::clone(&process), Blocked(blocked)).unwrap();
        while process.access_log_dropped.load(Ordering::Relaxed) == 0 {
            log.record(&record());
        }
        let (written, told) = mpsc::channel();
        let reader = thread::spawn(move || {
            // Every buffer in the channel is one write, and one more is in the hands of the writer.
            (0..=WAITING).for_each(|_| unblock.send(()).unwrap());
            written.send(()).unwrap();
            unblock // dropped by the test, so that a writer that goes on is blocked
        });
        log.finish(Duration::from_secs(10));
        assert!(told.try_recv().is_ok(), "it gave up before anything could be written");
        drop(reader.join().unwrap());
    }

    #[test]
    fn off_records_nothing() {
        let log = AccessLog::start(Settings { layout: None, sample: 1.0 }, Arc::default()).unwrap();
        assert!(log.layout().is_none());
        log.record(&record());
        log.finish(Duration::ZERO);
    }

    #[test]
    fn a_sample_of_nothing_keeps_errors_of_the_server() {
        let memory = Memory::default();
        let settings = Settings { layout: Some(Layout::fields("status").unwrap()), sample: 0.0 };
        let log = AccessLog::start_on(settings, Arc::default(), memory.clone()).unwrap();
        log.record(&record());
        log.record(&Record { status: 502, server_error: true, ..record() });
        log.finish(Duration::from_secs(10));
        assert_eq!(*memory.0.lock().unwrap(), b"{\"status\":502}\n");
    }

    /// Standard output whose reader has gone.
    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted() {
        let process = Arc::new(Process::default());
        let log = AccessLog::start_on(all(Layout::text()), Arc::clone(&process), Closed).unwrap();
        log.record(&record());
        log.finish(Duration::from_secs(10));
        assert_eq!(process.access_log_dropped.load(Ordering::Relaxed), 1);
    }
}
