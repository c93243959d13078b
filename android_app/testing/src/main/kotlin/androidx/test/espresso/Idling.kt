package androidx.test.espresso

import android.os.Looper

public interface IdlingResource {
    public fun getName(): String

    public fun isIdleNow(): Boolean

    public fun registerIdleTransitionCallback(callback: ResourceCallback?)

    public fun interface ResourceCallback {
        public fun onTransitionToIdle()
    }
}

/** Nobody registers anything. */
public class IdlingRegistry private constructor() {
    public fun getResources(): Collection<IdlingResource> = emptyList()

    public fun getLoopers(): Collection<Looper> = emptyList()

    public companion object {
        private val instance = IdlingRegistry()

        @JvmStatic
        public fun getInstance(): IdlingRegistry = instance
    }
}
