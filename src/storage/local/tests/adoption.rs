//! Stores that were written before a key was configured, and stores that an attacker created.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::storage::local::start::adoption::AdoptionRefused;

/// Writes a store under the key file, as a relay without a key does.
async fn without_a_key(place: &Place, with: impl AsyncFnOnce(&LocalStore)) -> PathBuf {
    let file = KeyFile::read_or_make(place.parent.path()).unwrap();
    let mut directory = Directory::hold(place.parent.path()).unwrap();
    directory.faults = place.faults.clone();
    let ring = KeyRing::new(file.key, []);
    let opened = LocalStore::open_in(directory, ring, place.timing, KeyFileUse::Ignore).unwrap();
    with(&opened.store).await;
    assert!(opened.store.close(LONG).await);
    place.parent.path().join("local.key")
}

async fn two_sets(store: &LocalStore) {
    put(store, "a", &Items::numbered(100, 1)).await;
    put(store, "b", &Items::numbered(100, 2)).await;
}

fn adopting() -> Place {
    let mut place = Place::new();
    place.key_file = KeyFileUse::Adopt;
    place
}

#[tokio::test]
async fn flags_of_a_store_without_a_key_move_under_the_configured_one_once() {
    let place = adopting();
    let file = without_a_key(&place, two_sets).await;
    let opened = place.try_open(&["key"]).unwrap();
    assert!(matches!(opened.adoption, Some(Adoption::Adopted { sets: 2 })), "{opened:?}");
    assert_eq!(complete(&opened.store, "a"), Items::numbered(100, 1));
    assert_eq!(complete(&opened.store, "b"), Items::numbered(100, 2));
    assert!(!file.exists());
    assert!(opened.store.close(LONG).await);
    let opened = place.try_open(&["key"]).unwrap();
    assert!(opened.adoption.is_none(), "{opened:?}");
    assert_eq!(complete(&opened.store, "a"), Items::numbered(100, 1));
    assert!(place.is_under("key"));
}

#[tokio::test]
async fn a_kill_before_the_key_file_is_removed_changes_nothing() {
    let place = adopting();
    let file = without_a_key(&place, two_sets).await;
    let text = fs::read(&file).unwrap();
    assert!(place.open(&["key"]).close(LONG).await);
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let opened = place.try_open(&["key"]).unwrap();
    assert!(matches!(opened.adoption, Some(Adoption::KeyFileRemoved)), "{opened:?}");
    assert_eq!(complete(&opened.store, "b"), Items::numbered(100, 2));
    assert!(!file.exists());
}

#[tokio::test]
async fn stores_that_no_relay_without_a_key_has_left_are_not_adopted() {
    let refused = async |place: &Place| {
        let opened = place.try_open(&["key"]).unwrap();
        assert!(matches!(read(&opened.store, "a").0, SetRead::Unreadable));
        assert!(place.parent.path().join("local.key").exists());
        assert!(opened.store.close(LONG).await);
        match opened.adoption {
            Some(Adoption::Refused(why)) => why,
            other => panic!("{other:?}"),
        }
    };
    // An attacker's list of environments, with the attacker's SDK keys.
    let place = adopting();
    without_a_key(&place, async |store| {
        two_sets(store).await;
        let records = vec![("environment".to_owned(), b"sdk-key".to_vec())];
        store.write_named("autoconfig", records, Vec::new()).await.unwrap();
    })
    .await;
    assert!(matches!(refused(&place).await, AdoptionRefused::Environments));

    // In addition to data that this relay has written under its key.
    let place = adopting();
    let store = place.open(&["key"]);
    put(&store, "c", &Items::numbered(3, 1)).await;
    assert!(store.close(LONG).await);
    without_a_key(&place, two_sets).await;
    assert!(matches!(refused(&place).await, AdoptionRefused::OtherKeys));

    // Under a key that other users can read.
    let place = adopting();
    let file = without_a_key(&place, two_sets).await;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o604)).unwrap();
    assert!(matches!(refused(&place).await, AdoptionRefused::OpenToOthers { .. }));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o606)).unwrap();
    let why = refused(&place).await;
    assert!(matches!(why, AdoptionRefused::KeyFile(KeyFileError::NotTrusted(_))), "{why:?}");
}

#[tokio::test]
async fn an_adoption_that_finds_no_room_leaves_the_store_and_its_key() {
    let place = adopting();
    let file = without_a_key(&place, two_sets).await;
    place.faults.set(Mood::Full);
    let opened = place.try_open(&["key"]).unwrap();
    let failed = matches!(
        opened.adoption,
        Some(Adoption::Refused(AdoptionRefused::Failed(LocalStoreError::Disk(_))))
    );
    assert!(failed && file.exists(), "{opened:?}");
    assert!(opened.store.close(LONG).await);
    place.faults.set(Mood::Well);
    let opened = place.try_open(&["key"]).unwrap();
    assert!(matches!(opened.adoption, Some(Adoption::Adopted { sets: 2 })), "{opened:?}");
    assert_eq!(complete(&opened.store, "a"), Items::numbered(100, 1));
}
