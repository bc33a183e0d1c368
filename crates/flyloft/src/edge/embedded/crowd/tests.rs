//! Who is let in, and who makes way.

use super::*;

fn crowd(connections: usize, of_one: usize) -> Arc<Crowd> {
    let room = Room { connections, of_one, held: 1, held_for_one: 1, ..Room::of(1_024, 1 << 30) };
    let paces = Paces::new(Duration::from_secs(30), Duration::from_secs(60));
    Arc::new(Crowd::new(room, paces))
}

fn address(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

fn is_expelled(guest: &Guest) -> bool {
    guest.seat.visits.load(Ordering::SeqCst) == EXPELLED
}

#[test]
fn the_one_that_has_been_idle_for_longest_makes_way() {
    let crowd = crowd(3, 3);
    let guests: Vec<_> = (1..=3).map(|last| Arc::new(crowd.admit(Some(address(last))).unwrap())).collect();
    for (guest, since) in guests.iter().zip([0, 1, 2]) {
        guest.seat.idle_since.store(since, Ordering::SeqCst);
    }
    // The first asks something, and has been idle for a shorter time than the others from then on.
    drop(guests[0].visit().unwrap());
    let newcomer = crowd.admit(Some(address(4))).unwrap();
    assert_eq!(guests.iter().map(|guest| is_expelled(guest)).collect::<Vec<_>>(), [false, true, false]);
    assert!(guests[1].visit().is_none(), "a request began on a connection that closes");
    assert!(!is_expelled(&newcomer));
}

#[test]
fn who_asks_for_nothing_for_too_long_is_told_to_leave_and_who_waits_for_an_answer_is_not() {
    let crowd = crowd(4, 4);
    let guests: Vec<_> = (1..=4).map(|last| Arc::new(crowd.admit(Some(address(last))).unwrap())).collect();
    let visit = guests[0].visit().unwrap();
    drop(guests[1].visit());
    for guest in &guests[..3] {
        guest.seat.idle_since.store(clock::now() - 5_000, Ordering::SeqCst);
    }
    crowd.sweep(Duration::from_secs(5));
    assert_eq!(guests.iter().map(|guest| is_expelled(guest)).collect::<Vec<_>>(), [false, true, true, false]);
    assert_eq!([1, 2].map(|guest: usize| guests[guest].farewell()), [Duration::MAX, Duration::ZERO]);
    assert_eq!(crowd.lock().leaving, 2);
    drop((visit, guests));
    assert_eq!(crowd.lock().leaving, 0);
}

#[test]
fn nobody_is_sent_away_during_a_request() {
    let crowd = crowd(2, 2);
    let busy: Vec<_> = (1..=2).map(|last| Arc::new(crowd.admit(Some(address(last))).unwrap())).collect();
    let mut visits: Vec<_> = busy.iter().map(|guest| guest.visit().unwrap()).collect();
    assert!(crowd.admit(Some(address(3))).is_none());
    assert!(!busy.iter().any(|guest| is_expelled(guest)));
    visits.pop();
    assert!(crowd.admit(Some(address(3))).is_none(), "it was looked again at once");
    crowd.lock().everybody.fruitless = Instant::now().checked_sub(LOOK_EVERY);
    assert!(crowd.admit(Some(address(3))).is_some());
    assert!(is_expelled(&busy[1]) && !is_expelled(&busy[0]));
}

#[test]
fn one_address_makes_way_for_itself_before_anybody_else_does() {
    let crowd = crowd(40, 2);
    let other = crowd.admit(Some(address(1))).unwrap();
    let greedy: Vec<_> = (0..6).map(|_| crowd.admit(Some(address(2))).unwrap()).collect();
    assert_eq!(greedy.iter().filter(|guest| !is_expelled(guest)).count(), 2);
    assert!(!is_expelled(&other));
    let inside = crowd.lock();
    assert_eq!((inside.everybody.seats.len(), inside.households.len(), inside.leaving), (3, 2, 4));
    drop(inside);
    drop((other, greedy));
    let inside = crowd.lock();
    assert_eq!((inside.everybody.seats.len(), inside.households.len(), inside.leaving), (0, 0, 0));
}

#[test]
fn those_who_are_told_to_go_and_do_not_are_bounded_too() {
    let crowd = crowd(8, 8);
    let guests: Vec<_> = (0..100).filter_map(|last| crowd.admit(Some(address(last)))).collect();
    assert_eq!(guests.len(), 8 + crowd.room.leaving());
}

#[test]
fn a_client_of_http2_takes_the_room_of_many_others() {
    let room = Room { memory: 8 * MEMORY_OF_HTTP2, ..Room::of(4_096, 1 << 30) };
    let crowd = Arc::new(Crowd::new(room, crowd(1, 1).paces.clone()));
    let others: Vec<_> = (0..100).map(|last| crowd.admit(Some(address(last))).unwrap()).collect();
    let guests: Vec<_> = (100..110).filter_map(|last| crowd.admit(Some(address(last)))).collect();
    assert!(guests.iter().all(Guest::speaks_http2), "idle ones make way");
    let inside = |guests: &[Guest]| guests.iter().filter(|guest| !is_expelled(guest)).count();
    assert_eq!((inside(&guests), inside(&others)), (8, 0));
    assert!(crowd.lock().everybody.memory <= room.memory);
    drop((guests, others));
    assert_eq!(crowd.lock().everybody.memory, 0);
}

#[test]
fn one_address_has_a_quarter_of_the_memory() {
    let room = Room { memory: 8 * MEMORY_OF_HTTP2, ..Room::of(4_096, 1 << 30) };
    let crowd = Arc::new(Crowd::new(room, crowd(1, 1).paces.clone()));
    let guests: Vec<_> = (0..3).map(|_| Arc::new(crowd.admit(Some(address(1))).unwrap())).collect();
    let _visits = [&guests[0], &guests[1]].map(|guest| (guest.speaks_http2(), guest.visit().unwrap()));
    assert!(!guests[2].speaks_http2());
    assert!(crowd.admit(Some(address(2))).unwrap().speaks_http2());
}

#[test]
fn all_requests_together_are_bounded() {
    let crowd = crowd(2, 2);
    let guests = [1, 2].map(|last| Arc::new(crowd.admit(Some(address(last))).unwrap()));
    let visits = [&guests[0], &guests[0]].map(|guest| guest.visit().unwrap());
    assert!(guests[1].visit().is_none());
    drop(visits);
    assert!(guests[1].visit().is_some());
}

#[test]
fn memory_is_worth_giving_back_once_half_of_the_crowd_has_left() {
    let crowd = Arc::new(Crowd::new(Room::of(4_096, 1 << 30), crowd(1, 1).paces.clone()));
    let mut guests: Vec<_> = (0..250).map(|last| crowd.admit(Some(address(last))).unwrap()).collect();
    assert!(!crowd.has_shrunk());
    guests.truncate(100);
    assert!(crowd.has_shrunk());
    assert!(!crowd.has_shrunk(), "it was given back already");
}

#[test]
fn requests_of_one_address_are_bounded_over_all_its_connections() {
    let crowd = crowd(10, 2);
    let [one, two] = [1, 1].map(|last| Arc::new(crowd.admit(Some(address(last))).unwrap()));
    let visits = (one.visit().unwrap(), two.visit().unwrap());
    assert!(one.visit().is_none());
    drop(visits);
    assert!(one.visit().is_some());
}

#[test]
fn a_client_is_an_ipv4_address_or_an_ipv6_network() {
    let of = |text: &str| Household::of(text.parse().unwrap());
    assert_eq!(of("2001:db8:1:2::3"), of("2001:db8:1:2:ffff::1"));
    assert_ne!(of("2001:db8:1:2::3"), of("2001:db8:1:3::3"));
    assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
    assert_ne!(of("::ffff:192.0.2.1"), of("::ffff:192.0.2.2"));
}
