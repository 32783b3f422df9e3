//! Every type's blocks against the values that two other programs agree on, bit for bit.

use std::path::PathBuf;

use kernels::{cpu, reference};
use plan::QuantType;
use serde_json::Value;

fn hex(text: &Value) -> Vec<u8> {
    let text = text.as_str().unwrap().as_bytes();
    text.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

#[test]
fn blocks_decode_bit_for_bit() {
    let Some(fixtures) = std::env::var_os("PLIMSOLL_FIXTURES") else {
        println!("skipped: PLIMSOLL_FIXTURES is not set");
        return;
    };
    let text = std::fs::read_to_string(PathBuf::from(fixtures).join("quants/blocks.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert!(cases.len() >= 25);
    for case in cases {
        let quant: QuantType = case["type"].as_str().unwrap().parse().unwrap();
        let bytes = hex(&case["bytes_hex"]);
        let expected: Vec<u32> = hex(&case["values_f32_hex_le"])
            .chunks_exact(4)
            .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect();
        let mut found = vec![f32::NAN; expected.len()];
        reference::dequantize(quant, &bytes, &mut found);
        assert_eq!(found.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), expected, "reference {quant}");
        found.fill(f32::NAN);
        cpu::dequantize(quant, &bytes, &mut found);
        assert_eq!(found.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), expected, "cpu {quant}");
    }
}
