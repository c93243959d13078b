package dev.pocketvlm.android

import android.os.SharedMemory
import android.system.ErrnoException
import dev.pocketvlm.KvBuffer
import dev.pocketvlm.KvMemory
import dev.pocketvlm.bundle.oneLineOf

/**
 * KV caches outside of the Java heap: Android's direct buffers are part of it, and a cache of 400 MB is more than an app's
 * whole heap. Memory is taken page by page as a conversation grows, and goes back when the cache is closed.
 */
public object SharedKvMemory : KvMemory {
    /** @throws OutOfMemoryError the system gives no more: memory, mappings or file descriptors */
    override fun allocate(bytes: Int): KvBuffer {
        try {
            return mapped(SharedMemory.create("pocketvlm-kv", bytes))
        } catch (error: ErrnoException) {
            throw OutOfMemoryError("$bytes bytes of shared memory: ${oneLineOf(error)}").apply { initCause(error) }
        }
    }

    private fun mapped(memory: SharedMemory): KvBuffer {
        // The mapping lives on without the descriptor, of which a process has few.
        val bytes = memory.use { it.mapReadWrite() }
        return KvBuffer(bytes) { SharedMemory.unmap(bytes) }
    }
}
