package dev.pocketvlm.sample

import android.os.Build
import android.view.View
import android.view.Window
import android.view.WindowInsets

/**
 * Draws edge to edge and keeps what is in [root] away from bars, cut-outs and the keyboard. Android 15 draws every app
 * so; before Android 11 the system itself keeps the content between its bars.
 */
@Suppress("DEPRECATION") // before Android 15 it must be asked for
internal fun keepClearOfBars(window: Window, root: View) {
    if (Build.VERSION.SDK_INT < Build.VERSION_CODES.R) return
    window.setDecorFitsSystemWindows(false)
    root.setOnApplyWindowInsetsListener { view, insets ->
        val kinds = WindowInsets.Type.systemBars() or WindowInsets.Type.displayCutout() or WindowInsets.Type.ime()
        val clear = insets.getInsets(kinds)
        view.setPadding(clear.left, clear.top, clear.right, clear.bottom)
        WindowInsets.CONSUMED
    }
}
