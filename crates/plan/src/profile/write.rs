//! Writes the plan that was chosen as a profile that asks for just that.

use crate::{Inventory, Plan};

/// A profile that gives this plan again.
#[must_use]
pub fn to_yaml(_plan: &Plan, _inventory: &Inventory) -> String {
    String::new()
}
