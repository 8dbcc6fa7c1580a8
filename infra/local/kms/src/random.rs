//! Random bytes, all from the operating system.

use zeroize::Zeroizing;

use crate::error::EmulatorError;

/// `N` random bytes for something public: an identifier, a nonce.
pub(crate) fn make_public<const N: usize>() -> Result<[u8; N], EmulatorError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(EmulatorError::Random)?;
    Ok(bytes)
}

/// `length` random bytes that are wiped when dropped: key material, a data key.
pub(crate) fn make_secret(length: usize) -> Result<Zeroizing<Vec<u8>>, EmulatorError> {
    let mut bytes = Zeroizing::new(vec![0; length]);
    getrandom::fill(&mut bytes).map_err(EmulatorError::Random)?;
    Ok(bytes)
}
