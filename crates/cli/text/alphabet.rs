//! The printable alphabet that byte-level vocabularies write their tokens in.
//!
//! Each of the 256 bytes has one character: itself where it is printable in Latin-1, otherwise the next free one from
//! U+0100 on (GPT-2's table). We store tokens as the bytes they stand for, so only loading meets this alphabet.

/// Bytes that stand for themselves.
const fn is_printable(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// For each character from U+0100 on, the byte it stands for.
const SHIFTED: [u8; 68] = {
    let mut table = [0; 68];
    let mut next = 0;
    let mut byte: u8 = 0;
    loop {
        if !is_printable(byte) {
            table[next] = byte;
            next += 1;
        }
        if byte == u8::MAX {
            break table;
        }
        byte += 1;
    }
};

/// The byte that a character stands for.
fn byte_of(character: char) -> Option<u8> {
    match u32::from(character) {
        own @ 0..=0xFF => is_printable(own as u8).then_some(own as u8),
        shifted => SHIFTED.get((shifted - 0x100) as usize).copied(),
    }
}

/// Appends the bytes that a token's text stands for; `false`, with nothing appended, where a character is foreign.
pub(super) fn decode(text: &[u8], into: &mut Vec<u8>) -> bool {
    let start = into.len();
    let Ok(text) = std::str::from_utf8(text) else { return false };
    for character in text.chars() {
        let Some(byte) = byte_of(character) else {
            into.truncate(start);
            return false;
        };
        into.push(byte);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_character() {
        let mut seen = [false; 256];
        for character in '\0'..='\u{200}' {
            if let Some(byte) = byte_of(character) {
                assert!(!std::mem::replace(&mut seen[usize::from(byte)], true), "{byte} twice");
            }
        }
        assert!(seen.iter().all(|seen| *seen));
    }

    #[test]
    fn the_well_known_ones() {
        for (text, bytes) in [("Ġthe", " the"), ("Ċ", "\n"), ("Ã©", "é"), ("ĉ", "\t"), ("", "")] {
            let mut decoded = Vec::new();
            assert!(decode(text.as_bytes(), &mut decoded));
            assert_eq!(decoded, bytes.as_bytes(), "{text}");
        }
        let mut kept = vec![7];
        assert!(!decode("a b".as_bytes(), &mut kept) && !decode("a▁".as_bytes(), &mut kept));
        assert_eq!(kept, [7]);
    }
}
