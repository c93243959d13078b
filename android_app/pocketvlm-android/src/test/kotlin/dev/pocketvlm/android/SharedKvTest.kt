package dev.pocketvlm.android

import org.junit.Assert.assertEquals
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner

@RunWith(RobolectricTestRunner::class)
public class SharedKvTest {
    @Test
    public fun memoryIsMapped() {
        assertEquals(4096, map(4096).put(7, 42).capacity())
    }
}
