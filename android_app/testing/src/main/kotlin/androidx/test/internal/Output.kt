package androidx.test.internal.platform.util

public class TestOutputEmitter private constructor() {
    public companion object {
        @JvmStatic
        public fun dumpThreadStates(@Suppress("UNUSED_PARAMETER") name: String?) {
        }
    }
}
