//! A faulty network in front of any server.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::ports;

/// What the network does. It holds for open connections and for new ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Passes everything on.
    Pass,
    /// Resets open connections and refuses new ones: nobody listens.
    Cut,
    /// Passes each piece on after this time, in both directions.
    Delay(Duration),
    /// Accepts connections and swallows what it is sent, in both directions, as
    /// when the other side has lost its power. Such connections are reset when
    /// the mode changes, as by a server that came back and does not know them.
    HalfOpen,
    /// Passes this many more bytes of answers on, by connection, and then resets
    /// that connection.
    ResetAfter(usize),
}

/// A TCP proxy. Its connections end when it is dropped.
pub struct Proxy {
    addr: SocketAddr,
    mode: watch::Sender<Mode>,
    /// Says once for each mode that it holds.
    applied: Mutex<mpsc::Receiver<()>>,
    seen: Arc<Seen>,
}

/// What happened so far.
#[derive(Default)]
struct Seen {
    accepted: AtomicU64,
    reset: AtomicU64,
    swallowed: AtomicU64,
}

impl Proxy {
    /// Starts one in front of `target` (`HOST:PORT`), on 127.0.0.1 and a free port.
    ///
    /// It has a thread of its own: a test that blocks does not stop its network.
    pub fn start(target: impl Into<String>) -> Self {
        let addr = SocketAddr::from(([127, 0, 0, 1], ports::free(&["127.0.0.1"])));
        let (mode, modes) = watch::channel(Mode::Pass);
        let (apply, applied) = mpsc::channel();
        let seen = Arc::new(Seen::default());
        let network = Network {
            target: target.into(),
            modes,
            seen: Arc::clone(&seen),
        };
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            // The connections are tasks: they end with the runtime.
            runtime.block_on(network.listen(addr, &apply));
        });
        applied.recv().expect("the proxy listens");
        Self {
            addr,
            mode,
            applied: Mutex::new(applied),
            seen,
        }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Changes the mode. When this returns, what is sent meets the new one.
    pub fn set(&self, mode: Mode) {
        let applied = self.applied.lock().unwrap();
        self.mode.send_replace(mode);
        applied.recv().expect("the proxy runs");
    }

    /// How many connections it accepted.
    pub fn accepted(&self) -> u64 {
        self.seen.accepted.load(Ordering::SeqCst)
    }

    /// How many connections it reset.
    pub fn resets(&self) -> u64 {
        self.seen.reset.load(Ordering::SeqCst)
    }

    /// How many bytes it swallowed, of both directions.
    pub fn swallowed(&self) -> u64 {
        self.seen.swallowed.load(Ordering::SeqCst)
    }
}

#[derive(Clone)]
struct Network {
    target: String,
    modes: watch::Receiver<Mode>,
    seen: Arc<Seen>,
}

/// Why a connection is reset.
enum Broken {
    /// By one of the sides, by the mode, or nobody answers at the target.
    Now,
    /// Both sides still believe in it.
    HalfOpen,
}

impl From<std::io::Error> for Broken {
    fn from(_: std::io::Error) -> Self {
        Self::Now
    }
}

impl Network {
    /// Listens as long as the mode has somebody listening, until the proxy is
    /// dropped.
    async fn listen(self, addr: SocketAddr, applied: &mpsc::Sender<()>) {
        let mut modes = self.modes.clone();
        let mut listener = None;
        loop {
            if *modes.borrow_and_update() == Mode::Cut {
                listener = None;
            } else if listener.is_none() {
                let bound = TcpListener::bind(addr).await;
                listener = Some(bound.unwrap_or_else(|e| panic!("proxy: {addr}: {e}")));
            }
            if applied.send(()).is_err() {
                return;
            }
            tokio::select! {
                never = self.accept(listener.as_ref()) => match never {},
                changed = modes.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn accept(&self, listener: Option<&TcpListener>) -> Infallible {
        let Some(listener) = listener else {
            return std::future::pending().await;
        };
        loop {
            if let Ok((client, _)) = listener.accept().await {
                self.seen.accepted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(self.clone().connection(client));
            }
        }
    }

    async fn connection(mut self, mut client: TcpStream) {
        let mut server = None;
        let ended = self.run(&mut client, &mut server).await;
        if matches!(ended, Err(Broken::HalfOpen)) {
            let is_over = |mode: &Mode| *mode != Mode::HalfOpen;
            let mut modes = self.modes.clone();
            tokio::select! {
                _ = modes.wait_for(is_over) => {}
                never = self.swallow(Some(&mut client)) => match never {},
                never = self.swallow(server.as_mut()) => match never {},
            }
        }
        if ended.is_err() {
            // Counted first: whoever has seen a reset finds it in the count.
            self.seen.reset.fetch_add(1, Ordering::SeqCst);
            for stream in [Some(client), server].into_iter().flatten() {
                // Then the close is a reset.
                let _ = stream.set_zero_linger();
            }
        }
    }

    async fn run(
        &mut self,
        client: &mut TcpStream,
        server: &mut Option<TcpStream>,
    ) -> Result<(), Broken> {
        let mut modes = self.modes.clone();
        let breaks = modes.wait_for(|mode| matches!(mode, Mode::Cut | Mode::HalfOpen));
        let passes = async {
            let server = server.insert(TcpStream::connect(&self.target).await?);
            client.set_nodelay(true)?;
            server.set_nodelay(true)?;
            let (from_client, to_client) = client.split();
            let (from_server, to_server) = server.split();
            tokio::try_join!(
                self.requests(from_client, to_server),
                self.answers(from_server, to_client)
            )?;
            Ok(())
        };
        tokio::select! {
            biased;
            mode = breaks => match mode.as_deref() {
                Ok(Mode::HalfOpen) => Err(Broken::HalfOpen),
                _ => Err(Broken::Now),
            },
            ended = passes => ended,
        }
    }

    async fn requests(&self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> Result<(), Broken> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let n = from.read(&mut buffer).await?;
            if n == 0 {
                return Ok(to.shutdown().await?);
            }
            self.travel(n).await;
            to.write_all(&buffer[..n]).await?;
        }
    }

    async fn answers(&self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> Result<(), Broken> {
        let mut buffer = vec![0; 64 * 1024];
        let mut counted_for = Mode::Pass;
        let mut passed = 0;
        loop {
            let n = from.read(&mut buffer).await?;
            if n == 0 {
                return Ok(to.shutdown().await?);
            }
            self.travel(n).await;
            let mode = *self.modes.borrow();
            if mode != counted_for {
                (counted_for, passed) = (mode, 0);
            }
            if let Mode::ResetAfter(limit) = mode
                && passed + n > limit
            {
                to.write_all(&buffer[..limit - passed]).await?;
                return Err(Broken::Now);
            }
            to.write_all(&buffer[..n]).await?;
            passed += n;
        }
    }

    /// The time that a piece of `n` bytes takes: for ever if it is lost. (Then
    /// [`Network::run`] ends the connection.)
    async fn travel(&self, n: usize) {
        let mode = *self.modes.borrow();
        match mode {
            Mode::Pass | Mode::ResetAfter(_) => {}
            Mode::Delay(time) => tokio::time::sleep(time).await,
            Mode::Cut | Mode::HalfOpen => {
                self.count_swallowed(n);
                std::future::pending().await
            }
        }
    }

    async fn swallow(&self, stream: Option<&mut TcpStream>) -> Infallible {
        if let Some(stream) = stream {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(n @ 1..) = stream.read(&mut buffer).await {
                self.count_swallowed(n);
            }
        }
        std::future::pending().await
    }

    fn count_swallowed(&self, n: usize) {
        let n = u64::try_from(n).unwrap();
        self.seen.swallowed.fetch_add(n, Ordering::SeqCst);
    }
}
