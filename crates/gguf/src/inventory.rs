//! From headers to the [`Inventory`]: units with their role, layer and expert, checked against the metadata.

use std::path::Path;

use plan::{Bytes, Inventory, ModelFile, Role, Tensor, Unit};

use crate::roles::{Experts, place};
use crate::shape::{Sizes, sizes};
use crate::{GgufError, Metadata};

/// Most units; a model of 671B has some 50 thousand.
const UNITS_MAX: u64 = 4 << 20;

/// The inventory of these files. Metadata is the first file's.
pub(crate) fn inventory(
    files: Vec<ModelFile>,
    metadata: &Metadata,
    tensors: Vec<Tensor>,
) -> Result<Inventory, GgufError> {
    let sizes = sizes(metadata, &tensors)?;
    widths(&sizes, &tensors)?;
    let mut units = Vec::with_capacity(tensors.len());
    for (index, tensor) in tensors.iter().enumerate() {
        add_units(&mut units, index as u32, tensor, &sizes, metadata)?;
        if units.len() as u64 > UNITS_MAX {
            let what = "experts and other tensors".to_owned();
            return Err(GgufError::Limit { what, found: units.len() as u64, limit: UNITS_MAX });
        }
    }
    let vocabulary = crate::vocabulary::check(metadata)?;
    let name = name(metadata, &files)?;
    Ok(Inventory { name, files, shape: sizes.shape, vocabulary, tensors, units })
}

/// The model's own name, or else its file's.
fn name(metadata: &Metadata, files: &[ModelFile]) -> Result<String, GgufError> {
    if let Some(name) = metadata.text("general.name")?.map(str::trim).filter(|name| !name.is_empty()) {
        return Ok(name.to_owned());
    }
    let stem = files.first().and_then(|file| Path::new(&file.path).file_stem());
    Ok(stem.map_or_else(|| "model".to_owned(), |stem| stem.to_string_lossy().into_owned()))
}

/// Checks the two matrices that every architecture has alike.
fn widths(sizes: &Sizes, tensors: &[Tensor]) -> Result<(), GgufError> {
    let shape = &sizes.shape;
    // Draft models choose among fewer tokens, and map their choice through `d2t`.
    let own_output = tensors.iter().any(|tensor| tensor.name == "d2t");
    for tensor in tensors {
        let wanted = [u64::from(shape.embedding), u64::from(shape.vocabulary)];
        let fits = match tensor.name.as_str() {
            "token_embd.weight" => tensor.dims == wanted,
            "output.weight" => own_output || tensor.dims == wanted,
            _ => true,
        };
        if !fits {
            return Err(GgufError::TensorMismatch {
                tensor: tensor.name.clone(),
                expected: format!("dimensions {wanted:?}, embedding and vocabulary"),
                found: format!("{:?}", tensor.dims),
            });
        }
    }
    Ok(())
}

/// Adds what can be placed of a tensor: itself, or each of its experts.
fn add_units(
    units: &mut Vec<Unit>,
    index: u32,
    tensor: &Tensor,
    sizes: &Sizes,
    metadata: &Metadata,
) -> Result<(), GgufError> {
    let mismatch =
        |expected: String, found: String| GgufError::TensorMismatch { tensor: tensor.name.clone(), expected, found };
    let place = place(&tensor.name);
    if let Some(layer) = place.layer.filter(|layer| *layer >= sizes.blocks) {
        return Err(mismatch(
            format!("a layer below {}, the number of layers", sizes.blocks),
            format!("layer {layer}"),
        ));
    }
    let whole = |role: Role, expert: Option<u32>| Unit {
        tensor: index,
        role,
        layer: place.layer,
        expert,
        rows: tensor.rows(),
        offset: tensor.offset,
        bytes: tensor.bytes,
    };
    if place.layer.is_some_and(|layer| layer >= sizes.shape.layers) {
        units.push(whole(Role::MultiToken, None));
        return Ok(());
    }
    if place.experts == Experts::None {
        units.push(whole(place.role, None));
        return Ok(());
    }
    let experts = place.layer.and_then(|layer| sizes.experts.get(layer as usize)).copied().unwrap_or(0);
    if experts == 0 {
        return Err(GgufError::missing_key(&metadata.full_key(".expert_count")));
    }
    let last = tensor.dims[tensor.dims.len() - 1];
    match place.experts {
        Experts::One(expert) if u64::from(expert) < experts => units.push(whole(place.role, Some(expert))),
        Experts::One(expert) => {
            return Err(mismatch(format!("an expert below {experts}"), format!("expert {expert}")));
        }
        Experts::Chunks if last > experts => {
            return Err(mismatch(format!("{experts} experts or fewer"), format!("dimensions {:?}", tensor.dims)));
        }
        Experts::All if last != experts => {
            return Err(mismatch(format!("{experts} experts"), format!("dimensions {:?}", tensor.dims)));
        }
        // One number for each expert (scales): it is needed whole to weigh any of them, as the router is.
        _ if tensor.dims.len() == 1 => units.push(whole(Role::Router, None)),
        _ => units.extend((0..last).map(|expert| Unit {
            expert: Some(expert as u32),
            rows: tensor.rows() / last,
            offset: tensor.offset + expert * (tensor.bytes.0 / last),
            bytes: Bytes(tensor.bytes.0 / last),
            ..whole(place.role, None)
        })),
    }
    Ok(())
}
