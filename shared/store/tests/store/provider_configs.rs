//! Removing a provider: it takes no new agents first, and is as it was when nothing comes of it.

use crate::support::{World, name, refused, secret};
use theazo_store::{ProviderConfig, ProviderConfigs, ProviderCredentials, ProviderSettings, SecretTarget, StoreError};

#[tokio::test]
async fn a_provider_is_removed_as_it_was_closed_and_not_after_somebody_has_changed_it() {
    let world = World::start().await;
    let scope = world.tenant().await;
    world.set(&scope, &SecretTarget::Platform, &[secret("KEY", "v")]).await.unwrap();
    let credentials = ProviderCredentials::new(world.table.clone(), world.keys.clone());
    let configs = ProviderConfigs::new(world.table.clone());
    let is_closed =
        async || configs.list(&scope).await.unwrap().iter().map(|config| config.is_closed()).collect::<Vec<_>>();
    assert!(matches!(refused(configs.close(&scope, "e2b").await), StoreError::NotFound));

    let open = credentials.configure(&scope, "e2b", &name("KEY")).await.unwrap();
    assert!(matches!(refused(configs.remove(&scope, &open).await), StoreError::Conflict(_)), "it was not closed");
    let closed = configs.close(&scope, "e2b").await.unwrap();
    assert_eq!(is_closed().await, [true]);
    // Whoever configures it anew wants it.
    credentials.configure(&scope, "e2b", &name("KEY")).await.unwrap();
    assert_eq!(is_closed().await, [false]);
    assert!(matches!(refused(configs.remove(&scope, &closed).await), StoreError::Conflict(_)));
    let first = configs.close(&scope, "e2b").await.unwrap();
    let second = configs.close(&scope, "e2b").await.unwrap();
    assert_eq!(first.updated_at_ms, second.updated_at_ms, "it is closed already");
    configs.reopen(&scope, second).await.unwrap();
    assert_eq!(is_closed().await, [false]);
    assert!(matches!(refused(configs.remove(&scope, &first).await), StoreError::Conflict(_)));
    configs.reopen(&scope, first).await.unwrap();

    // Another organization takes only the place of one that was closed and has not changed since.
    let in_one =
        |organization: &str| ProviderSettings { organization: Some(organization.into()), ..Default::default() };
    let key = name("KEY");
    let put = async |organization: &str, closed: Option<&ProviderConfig>| {
        credentials.configure_with(&scope, "fly", &key, in_one(organization), None, closed).await
    };
    put("one", None).await.unwrap();
    put("one", None).await.unwrap();
    assert!(matches!(refused(put("two", None).await), StoreError::Conflict(_)));
    let closed = configs.close(&scope, "fly").await.unwrap();
    put("one", None).await.unwrap();
    assert!(matches!(refused(put("two", Some(&closed)).await), StoreError::Conflict(_)));
    let closed = configs.close(&scope, "fly").await.unwrap();
    assert_eq!(put("two", Some(&closed)).await.unwrap().organization.as_deref(), Some("two"));
    world.remove_provider(&scope, "fly").await;

    let closed = configs.close(&scope, "e2b").await.unwrap();
    configs.remove(&scope, &closed).await.unwrap();
    assert_eq!(is_closed().await, [false; 0]);
    assert!(matches!(refused(configs.remove(&scope, &closed).await), StoreError::NotFound));
}
