//! A few addresses, kept small.

use std::net::IpAddr;
use std::ops::Deref;

/// Distinct addresses in order. Nearly every pod has one or two, for which a tree takes two hundred
/// bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses(Box<[IpAddr]>);

impl Deref for Addresses {
    type Target = [IpAddr];

    fn deref(&self) -> &[IpAddr] {
        &self.0
    }
}

impl FromIterator<IpAddr> for Addresses {
    fn from_iter<I: IntoIterator<Item = IpAddr>>(all: I) -> Self {
        let mut all: Vec<IpAddr> = all.into_iter().collect();
        all.sort_unstable();
        all.dedup();
        Self(all.into())
    }
}

impl<'a> IntoIterator for &'a Addresses {
    type Item = &'a IpAddr;
    type IntoIter = std::slice::Iter<'a, IpAddr>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_in_order_and_each_once() {
        let [a, b] = [IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2])];
        let all: Addresses = [b, a, b].into_iter().collect();
        assert_eq!(*all, [a, b]);
        assert_eq!(all, [a, b].into_iter().collect());
    }
}
