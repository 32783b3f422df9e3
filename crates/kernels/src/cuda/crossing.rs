//! A few thousand numbers from the card to the processor and back, in microseconds.
//!
//! Both ways go through pinned memory that both sides see. A kernel writes the numbers there and then a word, the turn; the
//! processor watches that word instead of asking the driver. On the way back the processor writes numbers and a word, and the stream, which
//! was told beforehand to wait for it, goes on by itself: what follows is already in its queue, so no launch lies between.

use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::time::{Duration, Instant};

use cudarc::driver::sys::{self, CUstreamWaitValue_flags};

use super::launch::{Address, Shape, launch};
use super::{CudaError, Gpu, Pinned, Slice, SliceMut};

/// Numbers between a flag and the data: a cache line of its own.
const FLAG: usize = 64;
/// How often the stream is asked whether it still lives while the processor watches for a turn.
const ASK: Duration = Duration::from_millis(2);

/// A passage between one card and the processor for up to `capacity` numbers each way.
///
/// A round is [`leave`](Self::leave), [`arrive`](Self::arrive) (asked for long before the numbers are there), then
/// [`receive`](Self::receive), work of the processor, and [`send`](Self::send), all on the card's stream of
/// [kernels](Gpu::compute). Between `arrive` and `send` the stream stands: what waits for its end waits for ever.
#[derive(Debug)]
pub struct Crossing {
    gpu: Gpu,
    /// A flag's cache line, then numbers: written by the card.
    out: Pinned<f32>,
    /// A flag's cache line, then numbers: written by the processor.
    back: Pinned<f32>,
    /// Turns that leave, and numbers of the last one.
    left: (u32, usize),
    /// Turns that are to arrive.
    arrivals: u32,
    /// Turns sent.
    sent: u32,
    /// Whether the driver waits for the processor, or a kernel does.
    driver_waits: bool,
}

impl Crossing {
    /// A passage for up to `capacity` numbers each way.
    ///
    /// # Errors
    /// [`CudaError::NotPinned`].
    pub fn new(gpu: &Gpu, capacity: usize) -> Result<Self, CudaError> {
        let (out, back) = (Pinned::new(gpu, FLAG + capacity)?, Pinned::new(gpu, FLAG + capacity)?);
        let driver_waits = gpu.info().waits_for_words;
        Ok(Self { gpu: gpu.clone(), out, back, left: (0, 0), arrivals: 0, sent: 0, driver_waits })
    }

    /// Lets a kernel wait for the processor in place of the driver, as it is where the driver cannot.
    #[must_use]
    pub const fn with_waiting_kernel(mut self) -> Self {
        self.driver_waits = false;
        self
    }

    /// Sends `from` to the processor when the stream comes to it.
    ///
    /// # Errors
    /// Where the launch fails.
    ///
    /// # Panics
    /// Where there are more numbers than the passage takes, or the stream stands until a [`send`](Self::send).
    pub fn leave(&mut self, from: Slice<'_, f32>) -> Result<(), CudaError> {
        assert_eq!(self.arrivals, self.sent, "what leaves now would come after numbers that are not sent");
        let stream = self.gpu.compute();
        assert!(from.len() + FLAG <= self.out.len(), "{} numbers do not fit the passage", from.len());
        let kernel = stream.kernel("cross_out")?;
        let turn = self.left.0.wrapping_add(1);
        let (flag, to) = (self.out.as_raw() as u64, self.out.as_raw() as u64 + (FLAG * 4) as u64);
        // SAFETY: `out` has room for the numbers, and its owner waits for the card before it gives them back. The processor reads them in
        // `receive` only, after the flag of the last turn, behind which one stream has put no other, and borrows the passage until the
        // next `leave`.
        unsafe {
            let shape = Shape::line(1, 1024);
            launch!(stream, kernel, shape, from.address(), Address(to), Address(flag), from.len() as u32, turn)?;
        }
        self.left = (turn, from.len());
        Ok(())
    }

    /// Waits for the numbers of the last [`leave`](Self::leave).
    ///
    /// # Errors
    /// [`CudaError::Lost`] where the stream's work failed before.
    pub fn receive(&mut self) -> Result<&[f32], CudaError> {
        let (turn, count) = self.left;
        let mut asked = Instant::now();
        loop {
            for _ in 0..256 {
                if Self::flag(&self.out).load(Ordering::Acquire) == turn {
                    return Ok(&self.out[FLAG..FLAG + count]);
                }
                std::hint::spin_loop();
            }
            if asked.elapsed() > ASK {
                self.gpu.compute().is_idle()?;
                asked = Instant::now();
            }
        }
    }

    /// Makes the stream wait for the next [`send`](Self::send) and then take its numbers to `to`. All `to.len()` numbers are taken.
    ///
    /// # Errors
    /// Where the launch fails.
    ///
    /// # Panics
    /// Where there are more numbers than the passage takes, or the numbers of the last turn are not sent yet.
    pub fn arrive(&mut self, to: &mut SliceMut<'_, f32>) -> Result<(), CudaError> {
        assert!(to.len() + FLAG <= self.back.len(), "{} numbers do not fit the passage", to.len());
        assert_eq!(self.arrivals, self.sent, "the numbers of one turn are sent before the next is asked for");
        let stream = self.gpu.compute();
        let kernel = stream.kernel("cross_in")?;
        let turn = self.sent.wrapping_add(1);
        let (flag, from) = (self.back.as_raw() as u64, self.back.as_raw() as u64 + (FLAG * 4) as u64);
        if self.driver_waits {
            stream.bind()?;
            let at_least = CUstreamWaitValue_flags::CU_STREAM_WAIT_VALUE_GEQ as u32;
            // SAFETY: the flag lives in pinned memory, whose owner waits for the card before it gives it back.
            let result = unsafe { sys::cuStreamWaitValue32_v2(stream.raw(), flag, turn, at_least) };
            self.gpu.context().check("waiting for the processor", result)?;
        }
        // SAFETY: `back` has as many numbers; the card reads them after the flag of this turn, which `send` sets behind them.
        unsafe {
            let shape = Shape::line(1, 1024);
            launch!(stream, kernel, shape, Address(from), to.address(), Address(flag), to.len() as u32, turn)?;
        }
        self.arrivals = turn;
        Ok(())
    }

    /// Room for the numbers of the turn that [`arrive`](Self::arrive) asked for, to be filled before [`send`](Self::send). Filling it early,
    /// while the card still reads an earlier turn's, gives that turn wrong numbers: [`receive`](Self::receive) one that came after it first.
    #[must_use]
    pub fn room(&mut self) -> &mut [f32] {
        &mut self.back[FLAG..]
    }

    /// Lets the stream go on with what is in [`room`](Self::room).
    pub fn send(&mut self) {
        self.sent = self.arrivals;
        fence(Ordering::SeqCst);
        Self::flag(&self.back).store(self.sent, Ordering::Release);
    }

    fn flag(memory: &Pinned<f32>) -> &AtomicU32 {
        // SAFETY: the first four bytes are aligned, live as long as the borrow, and are used as an atomic by both sides only: no slice of
        // numbers includes them.
        unsafe { AtomicU32::from_ptr(memory.as_raw().cast()) }
    }
}

impl Drop for Crossing {
    fn drop(&mut self) {
        // A stream that waits for numbers which never come would wait for ever.
        self.send();
    }
}
