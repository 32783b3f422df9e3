//! Launching kernels: their handles, shapes of grids, arguments.

use std::ffi::c_void;

use cudarc::driver::sys::{self, CUfunction};

use super::driver::check;
use super::{CudaError, Plain, Slice, Stream};

/// A function of a loaded module. Valid as long as the [`Gpu`](super::Gpu) that it came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernel {
    pub(super) function: CUfunction,
}

// SAFETY: a handle, which the driver lets any thread use.
unsafe impl Send for Kernel {}
// SAFETY: as above; nothing can be changed through it.
unsafe impl Sync for Kernel {}

/// How many threads run a kernel: blocks in three directions, threads of a block in two, and bytes of dynamic shared memory of a block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) blocks: (u32, u32, u32),
    pub(crate) threads: (u32, u32),
    pub(crate) shared: u32,
}

impl Shape {
    /// `blocks` blocks of `threads` threads in a line.
    pub(crate) const fn line(blocks: u32, threads: u32) -> Self {
        Self { blocks: (blocks, 1, 1), threads: (threads, 1), shared: 0 }
    }
}

/// A value that a kernel takes as it is.
///
/// # Safety
/// The type has the layout of the kernel's parameter: plain numbers, addresses, and `repr(C)` structures of them.
pub(crate) unsafe trait Param: Copy {}

/// An address in the memory of a device, or of the host as the device sees it.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address(pub(crate) u64);

impl Address {
    /// What kernels take where there is nothing.
    pub(crate) const NONE: Self = Self(0);

    /// Where a slice begins, if there is one.
    pub(crate) fn of<T: Plain>(slice: Option<Slice<'_, T>>) -> Self {
        slice.map_or(Self::NONE, |slice| slice.address())
    }

    pub(crate) fn is_none(self) -> bool {
        self == Self::NONE
    }
}

// SAFETY: plain numbers.
unsafe impl Param for u32 {}
// SAFETY: plain numbers.
unsafe impl Param for i32 {}
// SAFETY: plain numbers.
unsafe impl Param for u64 {}
// SAFETY: plain numbers.
unsafe impl Param for f32 {}
// SAFETY: a transparent plain number, as wide as a pointer of the device.
unsafe impl Param for Address {}

/// One argument, by the place of its value.
pub(crate) fn param<T: Param>(value: &T) -> *mut c_void {
    std::ptr::from_ref(value).cast_mut().cast()
}

/// `launch!(stream, kernel, shape, a, b, …)`: [`Stream::launch`] with arguments of any [`Param`] types, in the kernel's order.
macro_rules! launch {
    ($stream:expr, $kernel:expr, $shape:expr, $($argument:expr),+ $(,)?) => {
        $stream.launch($kernel, $shape, &mut [$($crate::cuda::launch::param(&$argument)),+])
    };
}
pub(crate) use launch;

impl Stream {
    /// Puts a kernel at the end of this stream.
    ///
    /// # Safety
    /// `arguments` point to values of the types that the kernel declares, in its order; addresses among them lead to as much memory as the
    /// kernel touches, of this stream's device or mapped for it, which stays allocated until the stream has done the work; and whatever the
    /// kernel writes in the host's memory is read by nobody before.
    pub(crate) unsafe fn launch(
        &self,
        kernel: Kernel,
        shape: Shape,
        arguments: &mut [*mut c_void],
    ) -> Result<(), CudaError> {
        self.bind()?;
        let (x, y, z) = shape.blocks;
        let (width, height) = shape.threads;
        let arguments = arguments.as_mut_ptr();
        // SAFETY: the caller's promise; the driver copies the arguments before it returns.
        let result = unsafe {
            let none = std::ptr::null_mut();
            sys::cuLaunchKernel(kernel.function, x, y, z, width, height, 1, shape.shared, self.raw(), arguments, none)
        };
        check(self.ordinal(), "launching a kernel", result)
    }
}
