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

/// Numbers before the data: a flag, on a cache line of its own.
const FLAG: usize = 64;
/// How often the stream is asked whether it still lives while the processor watches for a turn.
const ASK: Duration = Duration::from_millis(2);

/// A passage between one card and the processor for up to `capacity` numbers each way, in the card's stream of [kernels](Gpu::compute).
///
/// A round is [`leave`](Self::leave) and [`arrive`](Self::arrive), and on the processor's side [`receive`](Self::receive), work, and
/// [`send`](Self::send). Both sides of a round, and what leaves next, may be asked for before the first numbers are there, so that no launch lies in
/// the way. From `arrive` to `send` the stream stands: what waits for its end then waits for ever.
#[derive(Debug)]
pub struct Crossing {
    gpu: Gpu,
    capacity: usize,
    /// A flag, then numbers of turns in two places by turns: written by the card.
    out: Pinned<f32>,
    /// A flag, then numbers: written by the processor.
    back: Pinned<f32>,
    /// Turns that were asked to leave, and that were received.
    left: u32,
    received: u32,
    /// Of the last two turns that leave: their numbers, and the arrivals before them.
    leaving: [(usize, u32); 2],
    /// Turns that were asked to arrive, and that were sent.
    arrivals: u32,
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
        // Each place starts on a cache line.
        let capacity = capacity.next_multiple_of(FLAG);
        let (out, back) = (Pinned::new(gpu, FLAG + 2 * capacity)?, Pinned::new(gpu, FLAG + capacity)?);
        let (gpu, driver_waits) = (gpu.clone(), gpu.info().waits_for_words);
        let (left, received, leaving, arrivals, sent) = (0, 0, [(0, 0); 2], 0, 0);
        Ok(Self { gpu, capacity, out, back, left, received, leaving, arrivals, sent, driver_waits })
    }

    /// Lets a kernel wait for the processor in place of the driver, as it is where the driver cannot.
    #[must_use]
    pub const fn with_waiting_kernel(mut self) -> Self {
        self.driver_waits = false;
        self
    }

    /// Sends `from` to the processor when the stream comes to it. One turn may be on its way before this one.
    ///
    /// # Errors
    /// Where the launch fails.
    ///
    /// # Panics
    /// Where there are more numbers than the passage takes, or two turns are not received yet.
    pub fn leave(&mut self, from: Slice<'_, f32>) -> Result<(), CudaError> {
        assert!(from.len() <= self.capacity, "{} numbers do not fit the passage", from.len());
        assert!(self.left.wrapping_sub(self.received) < 2, "two turns are on their way and not received");
        let stream = self.gpu.compute();
        stream.refuse_recording("a crossing")?;
        let kernel = stream.kernel("cross_out")?;
        let turn = self.left.wrapping_add(1);
        let flag = self.out.as_raw() as u64;
        let to = flag + (self.place_of(turn) * size_of::<f32>()) as u64;
        // SAFETY: `out` has two places for as many numbers, and its owner waits for the card before it gives them back. `receive` lends one
        // place, after the flag of its turn, until the next call; the next turn in the same place leaves by such a call.
        unsafe {
            let shape = Shape::line(1, 1024);
            launch!(stream, kernel, shape, from.address(), Address(to), Address(flag), from.len() as u32, turn)?;
        }
        self.left = turn;
        self.leaving[turn as usize % 2] = (from.len(), self.arrivals);
        Ok(())
    }

    /// Waits for the numbers of the first [`leave`](Self::leave) that is not received yet.
    ///
    /// # Errors
    /// [`CudaError::Lost`] where the stream's work failed before.
    ///
    /// # Panics
    /// Where nothing was asked to leave, or it leaves after numbers that are not [sent](Self::send).
    pub fn receive(&mut self) -> Result<&[f32], CudaError> {
        assert_ne!(self.left, self.received, "nothing leaves");
        let turn = self.received.wrapping_add(1);
        let (count, arrivals) = self.leaving[turn as usize % 2];
        assert!(!is_before(self.sent, arrivals), "what is received leaves after numbers that are not sent");
        let mut asked = Instant::now();
        while is_before(Self::flag(&self.out).load(Ordering::Acquire), turn) {
            std::hint::spin_loop();
            if asked.elapsed() > ASK {
                self.gpu.compute().is_idle()?;
                asked = Instant::now();
            }
        }
        self.received = turn;
        Ok(&self.out[self.place_of(turn)..][..count])
    }

    /// Makes the stream wait for the next [`send`](Self::send) and then take its numbers to `to`.
    ///
    /// # Errors
    /// Where the launch fails.
    ///
    /// # Panics
    /// Where there are more numbers than the passage takes, or the numbers of the last turn are not sent yet.
    pub fn arrive(&mut self, to: &mut SliceMut<'_, f32>) -> Result<(), CudaError> {
        self.take(to, false)
    }

    /// Makes the stream wait for the next [`send`](Self::send) and then add its numbers to `to`.
    ///
    /// # Errors
    /// Where the launch fails.
    ///
    /// # Panics
    /// As [`arrive`](Self::arrive).
    pub fn arrive_and_add(&mut self, to: &mut SliceMut<'_, f32>) -> Result<(), CudaError> {
        self.take(to, true)
    }

    fn take(&mut self, to: &mut SliceMut<'_, f32>, add: bool) -> Result<(), CudaError> {
        assert!(to.len() <= self.capacity, "{} numbers do not fit the passage", to.len());
        assert_eq!(self.arrivals, self.sent, "the numbers of one turn are sent before the next is asked for");
        let stream = self.gpu.compute();
        stream.refuse_recording("a crossing")?;
        let kernel = stream.kernel("cross_in")?;
        let turn = self.arrivals.wrapping_add(1);
        let flag = self.back.as_raw() as u64;
        let from = flag + (FLAG * size_of::<f32>()) as u64;
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
            let (count, add) = (to.len() as u32, u32::from(add));
            launch!(stream, kernel, shape, Address(from), to.address(), Address(flag), count, turn, add)?;
        }
        self.arrivals = turn;
        Ok(())
    }

    /// Room for the numbers that [`arrive`](Self::arrive) asked for, to be filled before [`send`](Self::send), and after
    /// [`receive`](Self::receive) of something that left behind the turn before: until then the card may still read that one's.
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

    /// Gives up all turns that are under way: lets the stream go on with whatever is in [`room`](Self::room), waits for its end, and forgets
    /// what left.
    ///
    /// # Errors
    /// [`CudaError::Lost`] where the stream's work failed.
    pub fn give_up(&mut self) -> Result<(), CudaError> {
        self.send();
        self.received = self.left;
        self.gpu.compute().synchronize()
    }

    /// Where the numbers of a turn begin in `out`.
    const fn place_of(&self, turn: u32) -> usize {
        FLAG + turn as usize % 2 * self.capacity
    }

    fn flag(memory: &Pinned<f32>) -> &AtomicU32 {
        // SAFETY: the first four bytes are aligned, live as long as the borrow, and are used as an atomic by both sides only: no slice of
        // numbers includes them.
        unsafe { AtomicU32::from_ptr(memory.as_raw().cast()) }
    }
}

/// Whether turn `a` comes before turn `b`; turns wrap around.
const fn is_before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

impl Drop for Crossing {
    fn drop(&mut self) {
        // A stream that waits for numbers which never come would wait for ever.
        self.send();
    }
}
