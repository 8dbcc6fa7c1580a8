//! The type a secret's plaintext lives in.

use secrecy::{ExposeSecret, SecretBox};
use zeroize::Zeroize;

/// A secret's plaintext, zeroised when dropped.
///
/// It has no `Debug`, `Clone`, `Display` or `Serialize`, and [`SecretValue::expose`] is the only way in, so that
/// every place where a value leaves can be listed.
///
/// ```compile_fail,E0277
/// let value = theazo_vault::SecretValue::from_bytes(vec![1]);
/// println!("{value:?}");
/// ```
/// ```compile_fail,E0599
/// let value = theazo_vault::SecretValue::from_bytes(vec![1]);
/// let copy = value.clone();
/// ```
pub struct SecretValue(SecretBox<[u8]>);

impl SecretValue {
    /// Takes a plaintext over. The vector's spare capacity is wiped too.
    pub fn from_bytes(mut bytes: Vec<u8>) -> Self {
        let exact: Box<[u8]> = bytes.as_slice().into();
        bytes.zeroize();
        Self(SecretBox::new(exact))
    }

    /// Takes a text over.
    pub fn from_text(text: String) -> Self {
        Self::from_bytes(text.into_bytes())
    }

    /// The plaintext. Call sites are few and listed; do not add one lightly.
    pub fn expose(&self) -> &[u8] {
        self.0.expose_secret()
    }

    /// Bytes of plaintext.
    pub fn len(&self) -> usize {
        self.0.expose_secret().len()
    }

    /// Whether there is no byte at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zeroize::ZeroizeOnDrop;

    /// Compiles for what wipes itself. The value's parts are all named: another one would have to be looked at here.
    #[test]
    fn a_value_wipes_itself_when_it_is_dropped() {
        fn is_wiped(_: &impl ZeroizeOnDrop) {}
        let SecretValue(bytes) = &SecretValue::from_bytes(vec![1]);
        is_wiped(bytes);
    }
}
