//! Base62 as API keys use it: alphabet `0-9A-Za-z`.

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Random base62 characters, each uniform.
pub(crate) fn make_random(chars: usize) -> String {
    let mut text = String::with_capacity(chars);
    while text.len() < chars {
        let left = chars - text.len();
        text.extend(crate::make_random_bytes::<64>().into_iter().filter_map(uniform_digit).take(left));
    }
    text
}

/// The digit that a random byte stands for: four bytes for each. What is left over, from 248 up, is thrown away instead of
/// folded.
fn uniform_digit(byte: u8) -> Option<char> {
    (byte < 248).then(|| char::from(ALPHABET[usize::from(byte % 62)]))
}

/// A number as six base62 digits, most significant first, zero-padded. 62^6 exceeds 2^32, so every CRC-32 fits.
pub(crate) fn encode_u32(mut value: u32) -> [u8; 6] {
    let mut digits = [b'0'; 6];
    for digit in digits.iter_mut().rev() {
        *digit = ALPHABET[(value % 62) as usize];
        value /= 62;
    }
    digits
}

/// Whether every byte is a base62 digit.
pub(crate) fn is_base62(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_big_endian_and_zero_padded() {
        assert_eq!(&encode_u32(0), b"000000");
        assert_eq!(&encode_u32(61), b"00000z");
        assert_eq!(&encode_u32(62), b"000010");
        assert_eq!(&encode_u32(u32::MAX), b"4gfFC3");
    }

    #[test]
    fn every_digit_is_as_likely_as_any_other() {
        let digits: Vec<char> = (0..=u8::MAX).filter_map(uniform_digit).collect();
        assert_eq!(digits.len(), 248);
        assert!(
            ALPHABET.iter().all(|letter| digits.iter().filter(|digit| **digit == char::from(*letter)).count() == 4)
        );
    }

    #[test]
    fn random_text_has_the_asked_length_and_uses_the_whole_alphabet() {
        let text = make_random(20_000);
        assert_eq!(text.len(), 20_000);
        assert!(is_base62(&text));
        assert!(ALPHABET.iter().all(|&letter| text.bytes().any(|byte| byte == letter)));
    }
}
