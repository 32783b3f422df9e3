//! Which rule each unit falls under.

use super::Refusal;
use crate::profile::{Fault, Layers, Profile, ProfileError, Rule, compile};
use crate::{Inventory, Role, Tier, Unit};

/// What is asked for one unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wish {
    /// This tier, or a refusal.
    Pinned(Tier),
    /// The first tier, and the second for what does not fit.
    Either(Tier, Tier),
    /// On a GPU: those of the profile get whole layers in turn.
    InTurn,
    /// Wherever the planner puts it.
    Open,
    /// It is never computed with, and stays in the file.
    NotRun,
}

/// What is asked for each unit, and by which rule.
pub(super) struct Wishes {
    pub(super) wish: Vec<Wish>,
    /// The index of the rule, by unit; none where the default decides.
    pub(super) rule: Vec<Option<u32>>,
}

/// Applies the rules in order: the first that matches a unit has it.
pub(super) fn resolve(profile: &Profile, inventory: &Inventory) -> Result<Wishes, Refusal> {
    let default = match profile.default.value() {
        Some(tier) => Wish::Pinned(*tier),
        None => Wish::Open,
    };
    let mut wishes = Wishes { wish: vec![default; inventory.units.len()], rule: vec![None; inventory.units.len()] };
    for (number, rule) in profile.rules.iter().enumerate() {
        check(rule, inventory)?;
        apply(rule, number as u32, inventory, &mut wishes)?;
    }
    for (wish, unit) in wishes.wish.iter_mut().zip(&inventory.units) {
        if unit.role == Role::MultiToken {
            *wish = Wish::NotRun;
        } else if *wish == Wish::InTurn && inventory.is_vector(unit) {
            // Each GPU has copies of vectors.
            *wish = Wish::Open;
        }
    }
    Ok(wishes)
}

fn apply(rule: &Rule, number: u32, inventory: &Inventory, wishes: &mut Wishes) -> Result<(), ProfileError> {
    let pattern = match &rule.selector.tensors {
        Some(text) => Some(compile(text).map_err(|error| {
            ProfileError::new(Fault::BadPattern, &rule.origin, error.to_string(), "simplify the pattern")
        })?),
        None => None,
    };
    let wish = match rule.overflow {
        _ if rule.in_turn => Wish::InTurn,
        Some(overflow) => Wish::Either(rule.home, overflow),
        None => Wish::Pinned(rule.home),
    };
    let (mut matched, mut taken, mut taker) = (0_usize, 0_usize, None);
    // Units of one tensor stand together: its name meets the pattern once.
    let mut last = (u32::MAX, false);
    for (index, unit) in inventory.units.iter().enumerate() {
        if !matches(rule, unit, inventory.shape.layers) {
            continue;
        }
        if let Some(pattern) = &pattern {
            if last.0 != unit.tensor {
                last = (unit.tensor, pattern.is_match(&inventory.tensor_of(unit).name));
            }
            if !last.1 {
                continue;
            }
        }
        matched += 1;
        if wishes.rule[index].is_some() {
            taker = wishes.rule[index];
        } else {
            wishes.rule[index] = Some(number);
            wishes.wish[index] = wish;
            taken += 1;
        }
    }
    match (rule.must_match, matched, taken) {
        (true, 0, _) => Err(nothing(rule, inventory)),
        (true, _, 0) => {
            let message = format!("every one of the {matched} units that it matches belongs to an earlier rule");
            let earlier = taker.map_or(String::new(), |rule| format!(" (the last of them is rule {})", rule + 1));
            let hint = format!("the first rule that matches a unit has it{earlier}: move this rule up, or drop it");
            Err(ProfileError::new(Fault::DeadRule, &rule.origin, message, hint))
        }
        _ => Ok(()),
    }
}

fn matches(rule: &Rule, unit: &Unit, layers: u32) -> bool {
    let selector = &rule.selector;
    if selector.role.is_some_and(|role| role != unit.role) {
        return false;
    }
    let in_layers = match (&selector.layers, unit.layer) {
        (Layers::Any, _) => true,
        (Layers::Within(ranges), Some(layer)) => ranges.contains(layer),
        (Layers::First(count), Some(layer)) => layer < *count,
        (Layers::Last(count), Some(layer)) => layer >= layers.saturating_sub(*count),
        // As llama.cpp counts: the output is one layer more. The embedding stays with the processor.
        (Layers::Last(count), None) => *count > layers && unit.role != Role::Embedding,
        (_, None) => false,
    };
    in_layers
        && match (&selector.experts, unit.expert) {
            (None, _) => true,
            (Some(ranges), Some(expert)) => ranges.contains(expert),
            (Some(_), None) => false,
        }
}

/// Notes about rules from flags that any model may be given, and that this one has no units for.
pub(super) fn without_effect(profile: &Profile, inventory: &Inventory) -> Vec<String> {
    let absent = |rule: &&Rule| {
        let role = rule.selector.role.filter(|_| !rule.must_match);
        role.is_some_and(|role| !inventory.units.iter().any(|unit| unit.role == role))
    };
    let note = |rule: &Rule| {
        let role = rule.selector.role.map_or("", Role::name);
        format!("{}: {} has no {role}, so this changes nothing", rule.origin, inventory.name)
    };
    profile.rules.iter().filter(absent).map(note).collect()
}

/// Refuses a role, layer or expert that this model lacks.
fn check(rule: &Rule, inventory: &Inventory) -> Result<(), ProfileError> {
    let error = |message: String, hint: String| Err(ProfileError::new(Fault::NotInModel, &rule.origin, message, hint));
    let (selector, shape) = (&rule.selector, &inventory.shape);
    if !rule.must_match {
        return Ok(());
    }
    if let Some(role) = selector.role
        && !inventory.units.iter().any(|unit| unit.role == role)
    {
        let present = |role: &Role| inventory.units.iter().any(|unit| unit.role == *role);
        let roles: Vec<&str> = Role::ALL.into_iter().filter(present).map(Role::name).collect();
        return error(format!("{} has no {role}", inventory.name), format!("its roles are {}", roles.join(", ")));
    }
    if let Layers::Within(ranges) = &selector.layers
        && ranges.highest() >= shape.layers
    {
        let message = format!("layers {ranges}: {} has {} layers", inventory.name, shape.layers);
        return error(message, format!("they count from 0 to {}", shape.layers.saturating_sub(1)));
    }
    if let Some(ranges) = &selector.experts {
        if shape.experts == 0 {
            return error(format!("{} has no experts", inventory.name), "leave out `experts:`".to_owned());
        }
        if ranges.highest() >= shape.experts {
            let message = format!("experts {ranges}: {} has {} in each layer", inventory.name, shape.experts);
            return error(message, format!("they count from 0 to {}", shape.experts - 1));
        }
    }
    Ok(())
}

fn nothing(rule: &Rule, inventory: &Inventory) -> ProfileError {
    let hint = match &rule.selector.tensors {
        Some(_) => {
            let names = inventory.tensors.iter().map(|tensor| tensor.name.as_str());
            let examples: Vec<&str> = names.filter(|name| name.starts_with("blk.")).take(3).collect();
            format!(
                "patterns are sought anywhere in tensor names; `plimsoll inspect --tensors` lists them: {}, …",
                examples.join(", ")
            )
        }
        None => "its conditions are met together by no unit; drop one of them".to_owned(),
    };
    ProfileError::new(Fault::DeadRule, &rule.origin, format!("this rule matches nothing in {}", inventory.name), hint)
}
