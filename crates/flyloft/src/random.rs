//! Random names and chances, from the kernel.

/// `digits` hexadecimal digits.
pub fn hex(digits: usize) -> String {
    let mut bytes = vec![0; digits.div_ceil(2)];
    getrandom::fill(&mut bytes).expect("the kernel has random numbers");
    let mut text = hex::encode(bytes);
    text.truncate(digits);
    text
}

/// From 0 to 1, without 1.
pub fn chance() -> f64 {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).expect("the kernel has random numbers");
    f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
}
