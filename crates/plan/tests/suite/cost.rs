//! Costs of mixtures and of latent attention, over a recorded header.

#![allow(clippy::disallowed_methods, reason = "tests read files; the crate does not")]

use plan::cost::{self, HostTokens, Widths};
use plan::{Bytes, Logits};

use crate::common;

/// What R1's attention holds of one token: queries of 128 heads and their low rank, the latent, what is attended.
const R1_ATTENTION: u64 = 128 * (128 + 64) + 1536 + (512 + 64) + 128 * 128;

#[test]
fn the_widths_of_r1_are_those_of_its_activations() {
    let widths = Widths::of(&common::inventory("deepseek-r1-iq1_s"));
    let expected = Widths {
        embedding: 7168,
        // Queries, and not the keys and values of all heads, which are never there at once.
        attention: 128 * 192,
        kv: 576,
        feed_forward: 18_432,
        head: 576,
        vocabulary: 129_280,
        experts: 256,
        experts_used: 8,
        latent: 576,
        indexed: false,
        delta: 0,
        layers: 61,
    };
    assert_eq!(widths, expected);
    assert!(3 * widths.attention + widths.kv >= R1_ATTENTION);
    // The shared expert, or the eight chosen ones side by side.
    assert!(widths.feed_forward >= 8 * 2048);
}

#[test]
fn a_latent_needs_scratch_of_its_own() {
    let r1 = common::inventory("deepseek-r1-iq1_s").shape;
    // Small batches have a floor; large ones two rows of 576 floats for each token, for one head.
    assert_eq!(cost::latent_rows(&r1, 16), Bytes(8 << 20));
    assert_eq!(cost::latent_rows(&r1, 4096), Bytes(4096 * 2 * 576 * 4));
    let tile = Bytes(256 * 576 * 4);
    assert_eq!(cost::latent_scratch(&r1, 16), Bytes(8 << 20) + cost::LATENT_EXPANDED + tile);
    let llama = common::inventory("llama-1b-q4_k_m").shape;
    assert_eq!((cost::latent_rows(&llama, 512), cost::latent_scratch(&llama, 512)), (Bytes::ZERO, Bytes::ZERO));
}

#[test]
fn choices_and_scores_of_experts_are_counted() {
    let mixture = Widths::of(&common::inventory("deepseek-r1-iq1_s"));
    let dense = Widths { experts: 0, experts_used: 0, latent: 0, ..mixture };
    let of = |widths: &Widths| cost::activations(widths, HostTokens::all(512), 8, 4096, Logits::Every);
    let latent = cost::latent_scratch(&common::inventory("deepseek-r1-iq1_s").shape, 512);
    assert_eq!(of(&mixture) - of(&dense), Bytes(512 * (256 * 4 + 8 * (72 + 448))) + latent);
}

#[test]
fn rows_of_logits_follow_from_who_reads_them() {
    let widths = Widths::of(&common::inventory("smollm2-135m-q4_1"));
    let row = 4 * widths.vocabulary;
    let of = |logits| cost::activations(&widths, HostTokens::all(512), 2, 4096, logits).0;
    // The row and its copy; a sampler's candidates; eight rows at once.
    let without = of(Logits::Unread) - 2 * row;
    assert_eq!((of(Logits::Sampled) - without, of(Logits::Every) - without), (5 * row, 12 * row));
}

#[test]
fn a_selection_is_counted_where_there_is_an_indexer() {
    let mut inventory = common::inventory("deepseek-r1-iq1_s");
    let tokens = HostTokens::all(512);
    let of = |inventory: &plan::Inventory| cost::activations(&Widths::of(inventory), tokens, 8, 4000, Logits::Every);
    let (plain, shape) = (of(&inventory), &inventory.shape);
    assert_eq!(cost::selection(shape, 512, 8, 4000), Bytes::ZERO);
    inventory.shape.indexer_per_token = vec![0, 128];
    // A bit for each position of each token, in whole words: 63 for 4000.
    let bits = Bytes(512 * 63 * 8);
    assert_eq!(of(&inventory) - plain, bits);
    // The rows of scores are there for every model.
    assert_eq!(cost::selection(&inventory.shape, 512, 8, 4000), bits + Bytes(4 * 8 * 63 * 64));
}
