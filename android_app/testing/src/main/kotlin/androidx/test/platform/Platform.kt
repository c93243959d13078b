package androidx.test.platform.app

import android.app.Instrumentation
import android.os.Bundle

// Robolectric links to androidx.test, which is published as Android archives alone: no class path of Maven takes those.
// The classes of package androidx.test in this module have the members that Robolectric 4.16 calls, and do no more than
// it needs; an app never has them. The list is complete: it was taken from Robolectric's class files.

public class InstrumentationRegistry private constructor() {
    public companion object {
        private var instance: Instrumentation? = null

        @JvmStatic
        public fun getInstrumentation(): Instrumentation = checkNotNull(instance) { "Robolectric has not started" }

        @JvmStatic
        public fun registerInstance(instrumentation: Instrumentation?, @Suppress("UNUSED_PARAMETER") arguments: Bundle?) {
            instance = instrumentation
        }
    }
}
