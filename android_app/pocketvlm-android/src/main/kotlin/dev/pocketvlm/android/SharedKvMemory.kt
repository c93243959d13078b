package dev.pocketvlm.android

import android.os.SharedMemory
import java.nio.ByteBuffer

internal fun map(bytes: Int): ByteBuffer = SharedMemory.create("kv", bytes).mapReadWrite()
