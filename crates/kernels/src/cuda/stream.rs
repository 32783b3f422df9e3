//! Streams of work on a card, events that order them, and copies.

use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cudarc::driver::sys::{self, CUevent, CUresult, CUstream};

use super::device::Context;
use super::driver::check;
use super::launch::Kernel;
use super::memory::Plain;
use super::{CudaError, Gpu, GpuInfo, PinnedSlice, Slice, SliceMut};

/// Work of one card in the order in which it was asked for, asynchronous to the caller.
#[derive(Debug)]
pub struct Stream {
    raw: CUstream,
    context: Arc<Context>,
    /// Whether what is asked is taken down and not done: see [`Recording`](super::Recording).
    recording: AtomicBool,
}

// SAFETY: a handle, which the driver lets any thread use at any time.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl Stream {
    pub(super) fn new(context: &Arc<Context>) -> Result<Self, CudaError> {
        context.bind()?;
        let mut raw = null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: `raw` is writable and a context is current.
        context.check("making a stream", unsafe { sys::cuStreamCreate(&raw mut raw, flags) })?;
        Ok(Self { raw, context: Arc::clone(context), recording: AtomicBool::new(false) })
    }

    pub(super) const fn raw(&self) -> CUstream {
        self.raw
    }

    pub(super) const fn context(&self) -> &Arc<Context> {
        &self.context
    }

    pub(super) fn is_recording(&self) -> bool {
        self.recording.load(Ordering::Relaxed)
    }

    pub(super) fn set_recording(&self, recording: bool) {
        self.recording.store(recording, Ordering::Relaxed);
    }

    /// Refuses what touches the host while the stream is recorded: a replay would do it at any time.
    pub(super) fn refuse_recording(&self, doing: &'static str) -> Result<(), CudaError> {
        if self.is_recording() {
            return Err(CudaError::Recording { ordinal: self.ordinal(), doing });
        }
        Ok(())
    }

    pub(super) fn ordinal(&self) -> u32 {
        self.context.info.ordinal
    }

    /// What this stream's card is.
    pub(super) fn info(&self) -> &GpuInfo {
        &self.context.info
    }

    pub(super) fn bind(&self) -> Result<(), CudaError> {
        self.context.bind()
    }

    /// The kernel of this name on this stream's card.
    pub(crate) fn kernel(&self, name: &str) -> Result<Kernel, CudaError> {
        self.context.kernel(name)
    }

    /// Waits until everything asked of this stream is done.
    ///
    /// # Errors
    /// [`CudaError::Lost`] where some of it failed.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        self.bind()?;
        // SAFETY: the stream is alive.
        self.context.check("waiting for kernels", unsafe { sys::cuStreamSynchronize(self.raw) })
    }

    /// Whether everything asked of this stream is done.
    ///
    /// # Errors
    /// [`CudaError::Lost`] where some of it failed.
    pub fn is_idle(&self) -> Result<bool, CudaError> {
        self.bind()?;
        // SAFETY: the stream is alive.
        match unsafe { sys::cuStreamQuery(self.raw) } {
            CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            result => self.context.check("asking for kernels", result).map(|()| true),
        }
    }

    /// What comes after waits, on the device, until `event` has come.
    ///
    /// # Errors
    /// Where the driver refuses.
    pub fn wait(&self, event: &Event) -> Result<(), CudaError> {
        self.refuse_recording("a wait for an event")?;
        self.bind()?;
        // SAFETY: both are alive.
        self.context.check("ordering streams", unsafe { sys::cuStreamWaitEvent(self.raw, event.raw, 0) })
    }

    /// Copies pinned memory to the card, in the stream's time. Bytes that are changed before the copy is done may arrive either way.
    ///
    /// # Errors
    /// Where the driver refuses.
    ///
    /// # Panics
    /// Where the lengths differ.
    pub fn upload<T: Plain>(&self, from: PinnedSlice<'_, T>, to: &mut SliceMut<'_, T>) -> Result<(), CudaError> {
        assert_eq!(from.len(), to.len(), "lengths of a copy");
        self.refuse_recording("a copy from the host")?;
        self.bind()?;
        let bytes = size_of_val(from.as_slice());
        // SAFETY: both ranges are as long; each one's owner waits for the device before it gives the memory back.
        let result = unsafe { sys::cuMemcpyHtoDAsync_v2(to.address().0, from.as_ptr().cast(), bytes, self.raw) };
        self.context.check("copying to the card", result)
    }

    /// Copies any memory to the card and waits until it is there.
    ///
    /// # Errors
    /// Where the driver refuses.
    ///
    /// # Panics
    /// Where the lengths differ.
    pub fn upload_now<T: Plain>(&self, from: &[T], to: &mut SliceMut<'_, T>) -> Result<(), CudaError> {
        assert_eq!(from.len(), to.len(), "lengths of a copy");
        self.refuse_recording("a copy from the host")?;
        self.bind()?;
        // SAFETY: both ranges are as long, and `from` is borrowed until the copy is done.
        let result =
            unsafe { sys::cuMemcpyHtoDAsync_v2(to.address().0, from.as_ptr().cast(), size_of_val(from), self.raw) };
        let waited = self.synchronize();
        self.context.check("copying to the card", result).and(waited)
    }

    /// Copies from the card to any memory and waits until it is there.
    ///
    /// # Errors
    /// Where the driver refuses, or work before it failed.
    ///
    /// # Panics
    /// Where the lengths differ.
    pub fn download_now<T: Plain>(&self, from: Slice<'_, T>, to: &mut [T]) -> Result<(), CudaError> {
        assert_eq!(from.len(), to.len(), "lengths of a copy");
        self.refuse_recording("a copy to the host")?;
        self.bind()?;
        // SAFETY: both ranges are as long, `to` is borrowed alone until the copy is done, and every bit pattern is a `T`.
        let result =
            unsafe { sys::cuMemcpyDtoHAsync_v2(to.as_mut_ptr().cast(), from.address().0, size_of_val(to), self.raw) };
        let waited = self.synchronize();
        self.context.check("copying from the card", result).and(waited)
    }

    /// Starts a copy from the card. The caller waits for it through [`Download`](super::Download).
    ///
    /// # Safety
    /// `to` has room for all of `from`, pinned, and nobody else reads or writes it until the stream has done the copy.
    pub(super) unsafe fn start_download<T: Plain>(&self, from: Slice<'_, T>, to: *mut c_void) -> Result<(), CudaError> {
        self.refuse_recording("a copy to the host")?;
        self.bind()?;
        // SAFETY: the caller's promise; `from`'s owner waits for the device before it gives the memory back.
        let result = unsafe { sys::cuMemcpyDtoHAsync_v2(to, from.address().0, from.len() * size_of::<T>(), self.raw) };
        self.context.check("copying from the card", result)
    }

    /// Copies within the card, in the stream's time.
    ///
    /// # Errors
    /// Where the driver refuses.
    ///
    /// # Panics
    /// Where the lengths differ.
    pub fn copy<T: Plain>(&self, from: Slice<'_, T>, to: &mut SliceMut<'_, T>) -> Result<(), CudaError> {
        assert_eq!(from.len(), to.len(), "lengths of a copy");
        self.bind()?;
        let bytes = from.len() * size_of::<T>();
        // SAFETY: both ranges are as long, and their owners wait for the device before they give the memory back.
        let result = unsafe { sys::cuMemcpyDtoDAsync_v2(to.address().0, from.address().0, bytes, self.raw) };
        self.context.check("copying on the card", result)
    }

    /// Sets every byte, in the stream's time.
    ///
    /// # Errors
    /// Where the driver refuses.
    pub fn fill<T: Plain>(&self, to: &mut SliceMut<'_, T>, byte: u8) -> Result<(), CudaError> {
        self.bind()?;
        let bytes = to.len() * size_of::<T>();
        // SAFETY: the range is that of the slice, whose owner waits for the device before it gives the memory back.
        let result = unsafe { sys::cuMemsetD8Async(to.address().0, byte, bytes, self.raw) };
        self.context.check("filling memory of the card", result)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.bind().is_ok() {
            // SAFETY: the stream is alive and used no more; the driver finishes its work first.
            let _ = unsafe { sys::cuStreamDestroy_v2(self.raw) };
        }
    }
}

/// A mark in a stream, for another stream or the host to wait for.
#[derive(Debug)]
pub struct Event {
    raw: CUevent,
    context: Arc<Context>,
}

// SAFETY: a handle, which the driver lets any thread use at any time.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    /// An event that orders and takes no times, the cheaper kind.
    ///
    /// # Errors
    /// Where the driver refuses.
    pub fn new(gpu: &Gpu) -> Result<Self, CudaError> {
        Self::with(gpu.context(), sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
    }

    /// [`new`](Self::new) for the card of a stream.
    pub(super) fn of(stream: &Stream) -> Result<Self, CudaError> {
        Self::with(&stream.context, sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
    }

    /// An event whose distance in time to another can be asked.
    ///
    /// # Errors
    /// Where the driver refuses.
    pub fn timed(gpu: &Gpu) -> Result<Self, CudaError> {
        Self::with(gpu.context(), sys::CUevent_flags::CU_EVENT_DEFAULT)
    }

    fn with(context: &Arc<Context>, flags: sys::CUevent_flags) -> Result<Self, CudaError> {
        context.bind()?;
        let mut raw = null_mut();
        // SAFETY: `raw` is writable and a context is current.
        context.check("making an event", unsafe { sys::cuEventCreate(&raw mut raw, flags as u32) })?;
        Ok(Self { raw, context: Arc::clone(context) })
    }

    /// Marks the place behind all that was asked of `stream`; what waits for the event from now on waits for this place.
    ///
    /// # Errors
    /// Where the driver refuses.
    pub fn record(&self, stream: &Stream) -> Result<(), CudaError> {
        stream.refuse_recording("an event")?;
        stream.bind()?;
        // SAFETY: both are alive.
        self.context.check("recording an event", unsafe { sys::cuEventRecord(self.raw, stream.raw) })
    }

    /// Waits, on this thread, until the marked place is reached.
    ///
    /// # Errors
    /// [`CudaError::Lost`] where work before it failed.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        self.context.bind()?;
        // SAFETY: the event is alive.
        self.context.check("waiting for an event", unsafe { sys::cuEventSynchronize(self.raw) })
    }

    /// Whether the marked place has been reached.
    ///
    /// # Errors
    /// [`CudaError::Lost`] where work before it failed.
    pub fn has_come(&self) -> Result<bool, CudaError> {
        self.context.bind()?;
        // SAFETY: the event is alive.
        match unsafe { sys::cuEventQuery(self.raw) } {
            CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            result => self.context.check("asking for an event", result).map(|()| true),
        }
    }

    /// The time on the device from `earlier` to this one; both are [timed](Self::timed) and have come.
    ///
    /// # Errors
    /// Where one has no time yet.
    pub fn since(&self, earlier: &Self) -> Result<Duration, CudaError> {
        self.context.bind()?;
        let mut milliseconds = 0.0;
        // SAFETY: both are alive and the result is writable.
        let result = unsafe { sys::cuEventElapsedTime_v2(&raw mut milliseconds, earlier.raw, self.raw) };
        self.context.check("timing events", result)?;
        Ok(Duration::from_secs_f64(f64::from(milliseconds.max(0.0)) / 1e3))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: the event is alive and used no more; the driver keeps it while work refers to it.
            let _ = unsafe { sys::cuEventDestroy_v2(self.raw) };
        }
    }
}

impl Context {
    pub(super) fn check(&self, doing: &'static str, result: CUresult) -> Result<(), CudaError> {
        check(self.info.ordinal, doing, result)
    }
}
