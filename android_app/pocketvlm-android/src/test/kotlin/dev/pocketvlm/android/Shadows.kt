package dev.pocketvlm.android

import android.os.SharedMemory
import org.robolectric.annotation.Implementation
import org.robolectric.annotation.Implements
import org.robolectric.shadows.ShadowLinux
import org.robolectric.shadows.ShadowSharedMemory
import java.nio.ByteBuffer
import java.util.Collections
import java.util.IdentityHashMap
import java.util.concurrent.atomic.AtomicInteger

/** Robolectric's own setenv does nothing: this one says what was set, and whether ONNX Runtime was there already. */
@Implements(className = "libcore.io.Linux", isInAndroidSdk = false)
internal class RecordingLinux : ShadowLinux() {
    @Implementation
    fun setenv(name: String, value: String, overwrite: Boolean) {
        if (variables.isEmpty()) wasLoaded = isLoaded("ai.onnxruntime.OrtEnvironment")
        if (overwrite || name !in variables) variables[name] = value
    }

    companion object {
        val variables: MutableMap<String, String> = Collections.synchronizedMap(HashMap())

        /** When a variable was set for the first time in this process. */
        var wasLoaded: Boolean? = null
            private set

        fun isLoaded(name: String): Boolean {
            val find = ClassLoader::class.java.getDeclaredMethod("findLoadedClass", String::class.java).apply { isAccessible = true }
            return find.invoke(RecordingLinux::class.java.classLoader, name) != null
        }
    }
}

/** Robolectric's own unmap frees nothing: this one counts, and fails where a buffer is no mapping, or no more. */
@Implements(SharedMemory::class)
internal class CountingSharedMemory : ShadowSharedMemory() {
    @Implementation
    public override fun map(prot: Int, offset: Int, length: Int): ByteBuffer = super.map(prot, offset, length).also {
        mapped.add(it)
        every.incrementAndGet()
    }

    companion object {
        private val mapped: MutableSet<ByteBuffer> = Collections.synchronizedSet(Collections.newSetFromMap(IdentityHashMap()))

        /** Mappings so far. */
        val every = AtomicInteger()

        /** Mappings that live. */
        val count: Int get() = mapped.size

        /** Under a name of its own: Kotlin lets nothing hide a static method of Java. */
        @JvmStatic
        @Implementation(methodName = "unmap")
        fun countUnmap(buffer: ByteBuffer) {
            check(mapped.remove(buffer)) { "it is not mapped" }
        }
    }
}
