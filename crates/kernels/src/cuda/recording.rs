//! Kernels that were launched once and are launched again together, without the cost of each launch.
//!
//! A token's decode on one card is some hundreds of small kernels whose arguments never change: where a token stands and which it is are
//! read from the card's memory. [`Recorder::record`] takes them down as a graph of the driver's
//! (<https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__GRAPH.html>), and [`Recording::replay`] launches it by one call.
//!
//! A recording names addresses of the card and keeps nothing alive. It is good as long as the card has given no memory back since, which is
//! counted; afterwards it refuses to run, and its owner makes another. Copies to and from the host, crossings and events are refused while one
//! is made, since a replay would touch the host's memory when nobody expects it. A router's [mail](super::RouteMail) may be in it: it is
//! read by atomic words alone, and the card counts its turns.

use std::cell::Cell;
use std::fmt;
use std::ptr::null_mut;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};

use cudarc::driver::sys::{self, CUgraph, CUgraphExec};

use super::{CudaError, Gpu, Stream};

/// Work of one card's stream of [kernels](Gpu::compute), to be asked for again as a whole.
pub struct Recording {
    raw: CUgraphExec,
    stream: Arc<Stream>,
    /// How often memory of the card had been given back when it was begun.
    given_back: u64,
}

// SAFETY: a handle, which the driver lets any thread use, one at a time; `replay` is one call of the driver's, which locks.
unsafe impl Send for Recording {}

/// Held while a stream is recorded, and shared by those who wait for a whole card meanwhile: the driver spoils every recording when anyone of
/// the process does that.
static TURN: RwLock<()> = RwLock::new(());

thread_local! {
    /// Whether this thread is recording.
    static RECORDING: Cell<bool> = const { Cell::new(false) };
}

/// Keeps others from recording. A thread that records itself gets nothing: whatever it waits for is refused by the driver.
pub(super) fn none_meanwhile() -> Option<RwLockReadGuard<'static, ()>> {
    (!RECORDING.get()).then(|| TURN.read().unwrap_or_else(PoisonError::into_inner))
}

/// Leave to record.
pub struct Recorder<'a> {
    gpu: &'a Gpu,
    turn: RwLockWriteGuard<'static, ()>,
}

impl Gpu {
    /// Leave to record the stream of kernels, or nothing where somebody of this process records another or waits for a card: it is not waited for,
    /// since the card may be waiting for the caller.
    #[must_use]
    pub fn recorder(&self) -> Option<Recorder<'_>> {
        match TURN.try_write() {
            Ok(turn) => Some(Recorder { gpu: self, turn }),
            Err(TryLockError::Poisoned(turn)) => Some(Recorder { gpu: self, turn: turn.into_inner() }),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl Recorder<'_> {
    /// Takes down what `run` asks of the stream of kernels. None of it is done: that is what [`Recording::replay`] is for.
    ///
    /// # Errors
    /// Those of `run`, among them [`CudaError::Recording`] for what cannot be recorded; and the driver's.
    pub fn record<T, E: From<CudaError>>(self, run: impl FnOnce() -> Result<T, E>) -> Result<(Recording, T), E> {
        let capture = Capture::begin(self.gpu, self.turn)?;
        let outcome = run()?;
        Ok((capture.end()?, outcome))
    }
}

impl Recording {
    /// Puts everything recorded at the end of the stream, and says so; or says that it is out of date, and does nothing.
    ///
    /// # Errors
    /// Where the launch fails.
    pub fn replay(&self) -> Result<bool, CudaError> {
        if self.given_back != self.stream.context().times_given_back() {
            return Ok(false);
        }
        self.stream.bind()?;
        // SAFETY: every address was valid for its kernel when it was recorded, and the card has given nothing back since.
        let result = unsafe { sys::cuGraphLaunch(self.raw, self.stream.raw()) };
        self.stream.context().check("launching recorded kernels", result)?;
        Ok(true)
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if self.stream.bind().is_ok() {
            // SAFETY: alive and used no more; the driver lets work under way finish.
            let _ = unsafe { sys::cuGraphExecDestroy(self.raw) };
        }
    }
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recording(gpu:{})", self.stream.ordinal())
    }
}

/// A stream that takes down instead of doing. Dropped on an error, it does again.
struct Capture {
    stream: Arc<Stream>,
    given_back: u64,
    _turn: RwLockWriteGuard<'static, ()>,
}

impl Capture {
    fn begin(gpu: &Gpu, turn: RwLockWriteGuard<'static, ()>) -> Result<Self, CudaError> {
        let stream = gpu.compute_shared();
        let given_back = stream.context().times_given_back();
        stream.bind()?;
        // Calls of other threads on other streams are none of its business.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is alive.
        let result = unsafe { sys::cuStreamBeginCapture_v2(stream.raw(), mode) };
        stream.context().check("beginning to record", result)?;
        stream.set_recording(true);
        RECORDING.set(true);
        Ok(Self { stream, given_back, _turn: turn })
    }

    fn end(self) -> Result<Recording, CudaError> {
        let graph = self.finish()?;
        let mut raw = null_mut();
        // SAFETY: the graph is alive and `raw` is writable; the copy that is made ready needs the graph no more.
        let result = unsafe {
            let result = sys::cuGraphInstantiateWithFlags(&raw mut raw, graph, 0);
            let _ = sys::cuGraphDestroy(graph);
            result
        };
        self.stream.context().check("making recorded kernels ready", result)?;
        Ok(Recording { raw, stream: Arc::clone(&self.stream), given_back: self.given_back })
    }

    /// Lets the stream do again what is asked of it.
    fn finish(&self) -> Result<CUgraph, CudaError> {
        self.stream.set_recording(false);
        RECORDING.set(false);
        let mut graph = null_mut();
        // SAFETY: the stream is alive and `graph` is writable.
        let result = unsafe { sys::cuStreamEndCapture(self.stream.raw(), &raw mut graph) };
        self.stream.context().check("recording", result)?;
        Ok(graph)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if self.stream.is_recording()
            && let Ok(graph) = self.finish()
        {
            // SAFETY: the graph is alive and used no more.
            let _ = unsafe { sys::cuGraphDestroy(graph) };
        }
    }
}
