//! Rows of a cache on their way between a card and the processor: those of some positions, side by side.
//!
//! A cache is kept head by head, so the rows of some positions are a run for each head, far from the next one's. One copy with a stride
//! takes them all. On their way they lie as the card has them, without what is between: the codes of all rows, and then, of `Q8_0`, the
//! scales of all rows. [`cpu::KvStore::pack`](crate::cpu::KvStore::pack) and [`unpack`](crate::cpu::KvStore::unpack) are the other end.

use std::ops::Range;
use std::ptr::null_mut;

use cudarc::driver::sys::{self, CUDA_MEMCPY2D, CUmemorytype};

use super::driver::check;
use super::{CudaError, Download, KvStore, Pinned, PinnedSlice, Stream};

/// A run of bytes for each head: where the first starts on the card and beside it, how long one is, and how far the next one is on the card.
#[derive(Clone, Copy)]
struct Runs {
    on_card: u64,
    beside: usize,
    bytes: usize,
    step: usize,
}

impl KvStore {
    /// Bytes of the rows of so many positions on their way.
    #[must_use]
    pub const fn packed(&self, positions: usize) -> usize {
        self.heads() * positions * self.kind().bytes(self.dim() as u64).0 as usize
    }

    /// Brings the rows of `positions` from the processor, in the stream's time.
    ///
    /// # Errors
    /// Where the driver refuses.
    ///
    /// # Panics
    /// Where there are no such positions, or `from` has not their length.
    pub fn bring(
        &mut self,
        stream: &Stream,
        positions: Range<usize>,
        from: PinnedSlice<'_, u8>,
    ) -> Result<(), CudaError> {
        assert_eq!(from.len(), self.packed(positions.len()), "bytes of rows");
        stream.refuse_recording("a copy from the host")?;
        for runs in self.runs(positions) {
            // SAFETY: `from` has as many bytes as the runs take, and the store a run for each head where they begin; the owners of both wait
            // for the device before they give the memory back.
            unsafe { copy(stream, self.heads(), runs, from.as_ptr().cast_mut(), true)? };
        }
        Ok(())
    }

    /// Starts to take the rows of `positions` to the front of `to`, in the stream's time.
    ///
    /// # Errors
    /// Where the driver refuses.
    ///
    /// # Panics
    /// Where there are no such positions, or `to` is too short.
    pub fn take_down(
        &self,
        stream: &Stream,
        positions: Range<usize>,
        to: Pinned<u8>,
    ) -> Result<Download<u8>, CudaError> {
        assert!(self.packed(positions.len()) <= to.len(), "rows of {positions:?} do not fit {} bytes", to.len());
        stream.refuse_recording("a copy to the host")?;
        for runs in self.runs(positions) {
            // SAFETY: as above; `to` is held, unread, by the download.
            unsafe { copy(stream, self.heads(), runs, to.as_raw(), false)? };
        }
        Download::behind(stream, to)
    }

    /// The runs of codes, and of scales where they lie apart.
    fn runs(&self, positions: Range<usize>) -> impl Iterator<Item = Runs> + use<> {
        let count = positions.len();
        assert!(positions.start <= positions.end && positions.end <= self.capacity(), "{positions:?}");
        let (codes, scales) = (self.row_bytes(), self.scale_bytes());
        let start = self.slice().address().0;
        let run = move |base: usize, beside, row: usize, capacity: usize| Runs {
            on_card: start + (base + positions.start * row) as u64,
            beside,
            bytes: count * row,
            step: capacity * row,
        };
        let (heads, capacity) = (self.heads(), self.capacity());
        let first = run(0, 0, codes, capacity);
        let second = run(heads * capacity * codes, heads * count * codes, scales, capacity);
        [first, second].into_iter().filter(|runs| runs.bytes > 0)
    }
}

/// # Safety
/// On the card there are `heads` runs, as `runs` says, and from `beside` on as many bytes as they take together, one run behind another.
/// Both stay until the stream has done the copy, and nobody on the host writes what is read or touches what is written until then.
unsafe fn copy(stream: &Stream, heads: usize, runs: Runs, beside: *mut u8, up: bool) -> Result<(), CudaError> {
    stream.bind()?;
    let (host, card) = (CUmemorytype::CU_MEMORYTYPE_HOST, CUmemorytype::CU_MEMORYTYPE_DEVICE);
    let there = beside.wrapping_add(runs.beside).cast();
    let whole = CUDA_MEMCPY2D {
        srcXInBytes: 0,
        srcY: 0,
        srcMemoryType: if up { host } else { card },
        srcHost: if up { there } else { null_mut() },
        srcDevice: if up { 0 } else { runs.on_card },
        srcArray: null_mut(),
        srcPitch: if up { runs.bytes } else { runs.step },
        dstXInBytes: 0,
        dstY: 0,
        dstMemoryType: if up { card } else { host },
        dstHost: if up { null_mut() } else { there },
        dstDevice: if up { runs.on_card } else { 0 },
        dstArray: null_mut(),
        dstPitch: if up { runs.step } else { runs.bytes },
        WidthInBytes: runs.bytes,
        Height: heads,
    };
    // SAFETY: the caller's promise.
    check(stream.ordinal(), "copying rows of a cache", unsafe {
        sys::cuMemcpy2DAsync_v2(&raw const whole, stream.raw())
    })
}
