use proptest::prelude::*;

use super::*;

type Test = Stock<&'static str, &'static str, u32, &'static str>;

const MIB: u64 = 1 << 20;

/// Each layer with what it was made on, its MiB, and when it was used.
fn stock(layers: &[(&'static str, &[&'static str], u64, u64)]) -> Test {
    let layers =
        layers.iter().map(|&(id, on, mib, used)| Layer { id, on: on.to_vec(), size: mib * MIB, used: Timestamp(used) });
    Stock { caches: vec![], layers: layers.collect(), needed: BTreeSet::new(), releases: vec![], off: vec![] }
}

fn cache(id: &'static str, used: u64) -> Cache<&'static str> {
    Cache { id, size: 100 * MIB, used: Timestamp(used) }
}

fn old(id: u32, image: &[&'static str], since: u64) -> Release<u32, &'static str> {
    Release { id, image: image.to_vec(), since: Timestamp(since) }
}

fn off(id: &'static str, image: &[&'static str], mib: u64, since: u64) -> Off<&'static str, u32, &'static str> {
    Off { id, image: image.to_vec(), disk: mib * MIB, releases: vec![], since: Timestamp(since) }
}

fn plenty(missing: u64) -> Room {
    Room { unit: Unit::Bytes, caches: u64::MAX, layers: u64::MAX, missing: missing * MIB, least: 0 }
}

/// What goes, as one reads it.
fn goes(stock: &Test, room: Room) -> String {
    let said = decide(stock, room, false).victims.into_iter().map(|victim| match victim {
        Victim::Cache(id) => format!("cache {id}"),
        Victim::Layer(id) => id.to_owned(),
        Victim::Release(number) => format!("v{number}"),
        Victim::Environment(id) => format!("env {id}"),
    });
    said.collect::<Vec<_>>().join(", ")
}

#[test]
fn what_is_needed_stays_even_when_the_disk_is_full() {
    let mut stock = stock(&[("base", &[], 100, 0), ("app", &["base"], 10, 0)]);
    stock.needed = ["base", "app"].into();
    assert_eq!(goes(&stock, Room { caches: 0, layers: 0, ..plenty(9999) }), "");
}

#[test]
fn what_nothing_needs_stays_while_there_is_room_and_of_more_the_longest_unused_go_and_no_more_than_has_to() {
    let stock = stock(&[("new", &[], 100, 9), ("old", &[], 100, 1), ("middle", &[], 100, 5)]);
    let bound = |layers| Room { layers: layers * MIB, ..plenty(0) };
    assert_eq!(goes(&stock, bound(300)), "");
    assert_eq!(goes(&stock, bound(250)), "old");
    assert_eq!(goes(&stock, bound(150)), "old, middle");
    assert_eq!(goes(&stock, plenty(150)), "old, middle", "a full disk takes layers that there would be room for");
}

#[test]
fn a_layer_goes_after_those_that_were_made_on_it_and_is_used_as_long_as_they_are() {
    let layers = [("base", &[] as &[_], 10, 1), ("build", &["base"], 10, 1), ("deps", &["base", "build"], 10, 7)];
    let none = Room { layers: 0, ..plenty(0) };
    assert_eq!(goes(&stock(&layers), none), "deps, build, base");
    let mut stock = stock(&[("compilers", &[], 10, 1), ("deps", &["compilers"], 10, 9), ("old", &[], 10, 5)]);
    stock.needed = ["deps"].into();
    assert_eq!(goes(&stock, Room { layers: 10 * MIB, ..plenty(0) }), "old");
}

#[test]
fn of_package_caches_the_longest_unused_goes_first_and_no_more_than_has_to() {
    let mut stock = stock(&[]);
    stock.caches = vec![cache("new", 9), cache("old", 1), cache("middle", 5)];
    let bound = |mib, missing| Room { caches: mib * MIB, ..plenty(missing) };
    assert_eq!(goes(&stock, bound(300, 0)), "");
    assert_eq!(goes(&stock, bound(250, 0)), "cache old");
    assert_eq!(goes(&stock, bound(300, 150)), "cache old, cache middle");
}

/// Two environments of an app that are off, one with a release to roll back to, beside one that is awake.
fn shop() -> Test {
    let mut stock = stock(&[
        ("base", &[], 400, 9),
        ("deps", &["base"], 50, 9),
        ("olddeps", &["base"], 60, 9),
        ("v1", &["base"], 2, 9),
        ("v2", &["base"], 2, 9),
        ("next", &["base"], 2, 9),
        ("spare", &["base"], 5, 9),
    ]);
    stock.caches = vec![cache("pip", 9)];
    stock.needed = ["base"].into();
    stock.releases = vec![old(1, &["base", "olddeps", "v1"], 3)];
    stock.off = vec![off("next", &["base", "deps", "next"], 7, 20), off("main", &["base", "deps", "v2"], 30, 10)];
    stock
}

#[test]
fn caches_go_before_layers_and_they_before_old_releases_and_they_before_what_is_off_for_longest() {
    for (missing, expected) in [
        (0, ""),
        (1, "cache pip"),
        (101, "cache pip, spare"),
        (106, "cache pip, spare, v1, olddeps, v1"),
        (168, "cache pip, spare, v1, olddeps, v1, env main, v2"),
        // What both use goes with the last of them.
        (200, "cache pip, spare, v1, olddeps, v1, env main, v2, env next, deps, next"),
        (9999, "cache pip, spare, v1, olddeps, v1, env main, v2, env next, deps, next"),
    ] {
        assert_eq!(goes(&shop(), plenty(missing)), expected, "{missing} MiB");
    }
}

#[test]
fn a_release_and_an_environment_that_would_give_back_next_to_nothing_keep_what_they_have() {
    let mut stock = stock(&[("base", &[], 400, 9), ("app", &["base"], 2, 9)]);
    stock.needed = ["base", "app"].into();
    stock.releases = vec![old(1, &["base", "app"], 1)];
    stock.off = vec![off("main", &["base", "app"], 0, 1)];
    assert_eq!(goes(&stock, plenty(9999)), "");
    stock.off[0].disk = MIB;
    assert_eq!(goes(&stock, plenty(9999)), "env main");
}

#[test]
fn releases_that_share_everything_with_their_environment_go_with_it() {
    let mut stock = stock(&[("base", &[], 400, 9), ("app", &["base"], 2, 9)]);
    stock.needed = ["base"].into();
    // As after a restart, which is a release of the same image.
    stock.releases = vec![old(1, &["base", "app"], 1)];
    stock.off = vec![Off { releases: vec![1], ..off("main", &["base", "app"], 1, 1) }];
    assert_eq!(goes(&stock, plenty(9999)), "v1, env main, app");
}

#[test]
fn room_is_made_for_a_quarter_more_than_the_floor_and_only_below_it() {
    let below = |free, floor| Room::new(Unit::Bytes, (1, 2), free, floor);
    let missing = |missing, least| Room { unit: Unit::Bytes, caches: 1, layers: 2, missing, least };
    assert_eq!(below(100, 100), missing(0, 0));
    assert_eq!(below(99, 100), missing(26, 1));
    assert_eq!(below(0, 100), missing(125, 100));
    assert_eq!(below(0, 0), missing(0, 0));
    assert_eq!(below(1, u64::MAX), missing(u64::MAX - 1, u64::MAX - 1));
}

#[test]
fn inodes_are_made_room_for_like_bytes_and_however_many_bytes_there_is_room_for() {
    let room = Room::new(Unit::Inodes, (0, 0), 9_000, 10_000);
    assert_eq!(room, Room { unit: Unit::Inodes, caches: u64::MAX, layers: u64::MAX, missing: 3_500, least: 1_000 });
    let mut stock = stock(&[]);
    stock.off = vec![Off { disk: 99, ..off("few", &[], 0, 1) }, Off { disk: 1_000, ..off("many", &[], 0, 2) }];
    assert_eq!(goes(&stock, room), "env many");
    let space = Space { unit: Unit::Inodes, free: 9_000, taken: 600_000 };
    assert_eq!(space.filled(7), "something else fills it: Flyloft has 7 inodes of the 600000 inodes that are taken");

    assert_eq!([65_536, 6_500_000, 12_000].map(inode_floor), [10_000, 130_000, 3_000]);
    assert_eq!(inode_floor(0), 0, "there is nothing to run out of");
}

#[test]
fn nothing_that_is_off_goes_where_all_of_it_would_not_be_enough_and_what_costs_nobody_anything_goes() {
    // 100 for the cache, 5 for the layer that nothing needs, 62 for the release, 32 and 59 for what is off.
    let all = 258;
    let short_of = |least: u64| decide(&shop(), Room { least: least * MIB, ..plenty(9999) }, false);
    let enough = short_of(all);
    assert_eq!(
        (enough.spared, enough.takes_environments(), enough.most, enough.freed),
        (None, true, all * MIB, all * MIB)
    );
    let in_vain = short_of(all + 1);
    assert_eq!((in_vain.spared, in_vain.takes_environments()), (Some(Spared::InVain), false));
    assert_eq!((in_vain.most, in_vain.freed), (all * MIB, 167 * MIB));
    assert_eq!(in_vain.victims.len(), 5, "{in_vain:?}");
    // Where the rest is enough nobody asks.
    let little = decide(&shop(), Room { missing: 100 * MIB, least: (all + 1) * MIB, ..plenty(0) }, true);
    assert_eq!((little.spared, little.freed), (None, 100 * MIB));
}

#[test]
fn what_somebody_else_has_taken_is_not_followed_by_more_before_a_day_has_passed() {
    assert_eq!(decide(&shop(), plenty(9999), true).spared, Some(Spared::Lost));
    assert!(!decide(&shop(), plenty(9999), true).takes_environments());

    let hour = |hours: u64| Timestamp(hours * 3600 * 1000);
    let given = Given { at: hour(1), free: 1000, own: 5000 };
    assert!(given.is_lost(hour(2), 600, 5000), "others have written 400");
    assert!(given.is_lost(hour(24), 600, 5199), "they have written more than half of it");
    assert!(!given.is_lost(hour(25), 600, 5000), "it is a day ago");
    assert!(!given.is_lost(hour(2), 600, 5200), "half of it has been built since");
    assert!(!given.is_lost(hour(2), 600, 9000), "others have given some back, and all of it has been built since");
    assert!(given.is_lost(hour(2), 600, 1000), "what has been destroyed since went to others, too");
}

#[test]
fn it_is_said_who_fills_the_disk_and_what_could_go() {
    let gib = |gib: u64| gib << 30;
    let said = |own, most, spared| {
        let space = Space { unit: Unit::Bytes, free: gib(1), taken: gib(40) };
        Ours { own: gib(own), most, spared }.said(space)
    };
    assert_eq!(said(20, None, None), "Flyloft has 20.0 GiB of the 40.0 GiB that are taken");
    assert_eq!(
        said(19, Some(200 * MIB), Some(Spared::InVain)),
        "something else fills it: Flyloft has 19.0 GiB of the 40.0 GiB that are taken, and could free 200.0 MiB at most; \
         what is off is kept, since to give it up would be in vain"
    );
    let lost = said(1, Some(0), Some(Spared::Lost));
    assert!(lost.ends_with("kept, since others have taken what was given up for this within a day"), "{lost}");
}

proptest! {
    #[test]
    fn sizes_as_large_as_numbers_can_be_are_reckoned_with_like_others(
        sizes in prop::collection::vec(prop_oneof![0..9u64, u64::MAX - 9..=u64::MAX], 9),
        missing in prop_oneof![0..9u64, u64::MAX - 9..=u64::MAX],
        bound in prop_oneof![0..9u64, u64::MAX - 9..=u64::MAX],
    ) {
        let mut stock = shop();
        stock.caches.push(cache("npm", 8));
        let caches = stock.caches.iter_mut().map(|cache| &mut cache.size);
        let layers = stock.layers.iter_mut().map(|layer| &mut layer.size);
        for (size, hidden) in caches.chain(layers).zip(&sizes) {
            *size = *hidden;
        }
        (stock.off[0].disk, stock.off[1].disk) = (sizes[0], sizes[8]);
        let room = Room { unit: Unit::Bytes, caches: bound, layers: bound, missing, least: missing };
        let decision = decide(&stock, room, false);
        prop_assert!(decision.freed <= decision.most);
        let enough = decision.freed >= missing || decision.freed == decision.most || decision.spared.is_some();
        prop_assert!(enough, "{decision:?}");
    }

    #[test]
    fn nothing_that_stays_loses_a_layer_and_nothing_goes_twice(
        images in prop::collection::vec((prop::collection::btree_set(0..12u32, 1..5), 0..3u8, 0..50u64), 0..12),
        missing in 0..2000u64,
    ) {
        let layer = |id| Layer { id, on: vec![], size: u64::from(id + 1) * MIB, used: Timestamp(u64::from(id)) };
        let mut stock: Stock<u32, u32, usize, usize> =
            Stock { caches: vec![], layers: (0..12).map(layer).collect(), needed: BTreeSet::new(), releases: vec![], off: vec![] };
        for (id, (image, kind, since)) in images.iter().enumerate() {
            let (image, since) = (image.iter().copied().collect::<Vec<_>>(), Timestamp(*since));
            match kind {
                0 => stock.needed.extend(image),
                1 => stock.releases.push(Release { id, image, since }),
                _ => stock.off.push(Off { id, image, disk: MIB, releases: vec![], since }),
            }
        }
        let (mut layers, mut gone) = (BTreeSet::new(), BTreeSet::new());
        let Decision { victims, .. } = decide(&stock, plenty(missing), false);
        for victim in &victims {
            match *victim {
                Victim::Layer(id) => prop_assert!(layers.insert(id)),
                Victim::Release(id) | Victim::Environment(id) => prop_assert!(gone.insert(id)),
                Victim::Cache(_) => prop_assert!(false),
            }
        }
        for (id, (image, kind, _)) in images.iter().enumerate() {
            prop_assert!(*kind > 0 && gone.contains(&id) || image.is_disjoint(&layers), "{id} lost a layer");
        }
        // It is enough, unless everything has gone that could.
        let freed = layers.iter().map(|id| u64::from(id + 1)).sum::<u64>()
            + victims.iter().filter(|victim| matches!(victim, Victim::Environment(_))).count() as u64;
        let all_gone = stock.off.iter().all(|off| gone.contains(&off.id));
        prop_assert!(freed >= missing || all_gone, "{freed} of {missing} MiB");
    }
}
