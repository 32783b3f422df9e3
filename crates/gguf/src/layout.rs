//! Where tensors lie in one file: inside it, aligned, apart from each other and without holes.

use std::collections::HashSet;

use plan::{Bytes, Tensor};

use crate::GgufError;

/// Checks the tensors' offsets, which count from `data_start`, and makes them count from the start of the file.
///
/// Bytes behind the last tensor are allowed: some tools pad there.
pub(crate) fn place(tensors: &mut [Tensor], data_start: u64, alignment: u64, length: u64) -> Result<(), GgufError> {
    if let Some(twice) = repeated(tensors) {
        return Err(GgufError::DuplicateTensor { tensor: twice.name.clone() });
    }
    let mut need = 0;
    for tensor in tensors.iter_mut() {
        let given = tensor.offset;
        let bad = |problem: &str| GgufError::TensorOffset {
            tensor: tensor.name.clone(),
            offset: given,
            problem: problem.to_owned(),
        };
        if !given.is_multiple_of(alignment) {
            return Err(bad(&format!("no multiple of the alignment {alignment}")));
        }
        let start = given.checked_add(data_start).ok_or_else(|| bad("beyond any file"))?;
        let end = start.checked_add(tensor.bytes.0).filter(|end| i64::try_from(*end).is_ok());
        need = need.max(end.ok_or_else(|| bad("beyond any file"))?);
        tensor.offset = start;
    }
    in_order(tensors, data_start, alignment, length, need)
}

/// The first tensor whose name has come before.
pub(crate) fn repeated(tensors: &[Tensor]) -> Option<&Tensor> {
    let mut seen = HashSet::with_capacity(tensors.len());
    tensors.iter().find(|tensor| !seen.insert(tensor.name.as_str()))
}

/// Checks that tensors, taken by offset, follow each other with no more than padding between, up to the file's end.
fn in_order(tensors: &[Tensor], data_start: u64, align: u64, length: u64, need: u64) -> Result<(), GgufError> {
    let mut by_offset: Vec<&Tensor> = tensors.iter().collect();
    by_offset.sort_by_key(|tensor| tensor.offset);
    let mut before: Option<&Tensor> = None;
    let mut first_cut = None;
    for tensor in by_offset {
        let end_before = before.map_or(data_start, |tensor| tensor.offset + tensor.bytes.0);
        if let Some(before) = before.filter(|_| tensor.offset < end_before) {
            return Err(GgufError::Overlap { first: before.name.clone(), second: tensor.name.clone() });
        }
        let expected = end_before.next_multiple_of(align);
        if tensor.offset != expected {
            return Err(GgufError::TensorOffset {
                tensor: tensor.name.clone(),
                offset: tensor.offset - data_start,
                problem: format!("behind a hole: the tensor before ends so that {} is next", expected - data_start),
            });
        }
        if tensor.offset + tensor.bytes.0 > length {
            first_cut = first_cut.or(Some(tensor));
        }
        before = Some(tensor);
    }
    match first_cut {
        None => Ok(()),
        Some(tensor) => Err(GgufError::DataCut { tensor: tensor.name.clone(), have: Bytes(length), need: Bytes(need) }),
    }
}
