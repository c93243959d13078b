package org.example;

import android.app.Activity;
import android.os.Bundle;
import android.widget.TextView;
import dev.pocketvlm.PocketVlm;
import java.io.File;

/** Shows what the bundle says of itself. */
public class Main extends Activity {
    @Override
    protected void onCreate(Bundle state) {
        super.onCreate(state);
        TextView view = new TextView(this);
        view.setText(PocketVlm.Companion.inspect(new File(getFilesDir(), "bundle"), false).getName());
        setContentView(view);
    }
}
