//! The card that tests share, and how numbers come to it and back.

use std::sync::LazyLock;

use kernels::cuda::{CudaError, DeviceBuffer, Gpu, Plain, Slice};
use plan::Bytes;

/// The first card, or `None` with a word on why: there is no driver, no card, or an old one.
pub(crate) fn gpu() -> Option<&'static Gpu> {
    static GPU: LazyLock<Result<Gpu, CudaError>> = LazyLock::new(|| Gpu::open(0, Bytes(4 << 30)));
    match &*GPU {
        Ok(gpu) => Some(gpu),
        Err(
            error @ (CudaError::NoDriver { .. }
            | CudaError::NoDevice { .. }
            | CudaError::OldDriver { .. }
            | CudaError::OldDevice { .. }),
        ) => {
            println!("skipped: no GPU ({})", error.to_string().lines().next().unwrap_or_default());
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// A copy of `numbers` on the card.
pub(crate) fn upload<T: Plain>(gpu: &Gpu, numbers: &[T]) -> DeviceBuffer<T> {
    let mut buffer = DeviceBuffer::new(gpu, "a test", numbers.len()).unwrap();
    gpu.compute().upload_now(numbers, &mut buffer.slice_mut()).unwrap();
    buffer
}

/// Room for `count` numbers, each NaN: what a kernel does not write is seen.
pub(crate) fn poisoned(gpu: &Gpu, count: usize) -> DeviceBuffer<f32> {
    upload(gpu, &vec![f32::NAN; count])
}

/// The numbers of a slice.
pub(crate) fn download<T: Plain + Default>(gpu: &Gpu, slice: Slice<'_, T>) -> Vec<T> {
    let mut numbers = vec![T::default(); slice.len()];
    gpu.compute().download_now(slice, &mut numbers).unwrap();
    numbers
}
