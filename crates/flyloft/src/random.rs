//! Random names, from the kernel.

/// `digits` hexadecimal digits.
pub fn hex(digits: usize) -> String {
    let mut bytes = vec![0; digits.div_ceil(2)];
    getrandom::fill(&mut bytes).expect("the kernel has random numbers");
    let mut text = hex::encode(bytes);
    text.truncate(digits);
    text
}
